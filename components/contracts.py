"""What several rooms share: dimensions, codes of labels, paths of outputs, aliases of model versions.

It imports nothing of the project, so that whoever needs a path does not depend on the code that writes there.
"""

from collections.abc import Iterable
from pathlib import Path

# Dimensions of preferences, and the codes of a label: which clip of a pair is better. A table has null, and a CSV nothing,
# where there is none; an array of int has NO_LABEL.
DIMENSIONS = ("VQ", "MQ", "TA", "Overall")
LABELS = {"A": 1, "B": -1, "same": 0}
LABEL_TEXT = {code: text for text, code in LABELS.items()}
NO_LABEL = 22  # the reference implementation's code; any number but 1, -1 and 0 would do

# Outputs of stages that other rooms read: data,
SOURCE_VIDEOS = Path("data/source/videos")
SOURCE_PROMPTS = Path("data/source/prompts.csv")
SOURCE_ANNOTATIONS = Path("data/source/annotations.csv")
MEASURES = Path("data/measures.parquet")
CLIPS = Path("data/clips.parquet")
PAIRS = Path("data/pairs")
JUDGE = "judge"  # folder of PAIRS with the pairs of the held-out VideoReward, which alignment never reads
CANDIDATES = Path("data/candidates")
CANDIDATE_SCORES = Path("data/candidate_scores.parquet")
ALIGNMENT_PAIRS = Path("data/alignment_pairs.parquet")
EXAMPLE_PAIRS = Path("data/example_pairs")
SAMPLES = Path("data/samples")
SAMPLE_SCORES = Path("data/sample_scores.parquet")
TRADEOFF = Path("data/tradeoff.parquet")
# models, as text: records and digests have them so,
BASE_GENERATOR = "models/base_generator"
VIDEO_REWARD = "models/video_reward"
JUDGE_REWARD = "models/judge_reward"  # a VideoReward that judges
LATENT_REWARD = "models/latent_reward"
ALIGNED = "models/aligned"  # a folder each method
MODEL_REPOSITORY = Path("serving/model_repository")
# and metrics.
SOURCE_METRICS = Path("metrics/source.json")
PAIRS_METRICS = Path("metrics/pairs.json")
REWARD_METRICS = Path("metrics/reward_bench.json")
ALIGNMENT_METRICS = Path("metrics/alignment.json")
TRADEOFF_METRICS = Path("metrics/tradeoff.json")

# A team's own judges: their files and cards, in its repository.
JUDGES_FOLDER = Path("judges")

# Aliases of registered models: the newest version, and the one that was promoted.
CHALLENGER, CHAMPION = "challenger", "champion"


def rating_columns(side: str) -> list[str]:
    """Columns of the ratings of a side, in the order of DIMENSIONS."""
    return [f"MOS_{side}_{dimension}" for dimension in DIMENSIONS]


def label_codes(labels: Iterable[int | None]) -> list[int]:
    """Labels of a table as codes of an array."""
    return [NO_LABEL if label is None else label for label in labels]
