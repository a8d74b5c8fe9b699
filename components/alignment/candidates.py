"""Stage `candidates`: K clips of the base generator for each of a number of training prompts.

The stage keeps all that alignment needs: latents, text embeddings and the clips. Neither the VAE nor the text encoder runs
again after this. Each is a separate output, as training reads no video.
"""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from components.alignment.shards import save_shards
from components.generator.sampler import Job, draw, loaded
from components.generator.wan import Generator, load_generator
from components.preferences.schema import read_prompts
from components.preferences.split import split_prompts
from components.stage import Stage, folder_digest, run_stage
from components.tables import write_table

FOLDER = Path("data/candidates")
BASE = "models/base_generator"
TEXT_BATCH = 64  # prompts
SCHEMA = pa.schema(
    [
        ("candidate_id", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("path", pa.string()),  # below data/candidates
        ("row", pa.int64()),  # of latents
        ("text_row", pa.int64()),  # of text
    ]
)


def candidates(stage: Stage) -> None:
    generator = load_generator(BASE, dtype=stage.params.base_generator.dtype)
    draw_candidates(stage, generator, lambda name: stage.output(FOLDER / name))


def draw_candidates(stage: Stage, generator: Generator, place: Callable[[str], Path]) -> None:
    """Sample the clips and write videos, latents, text and candidates.parquet to the paths that `place` gives."""
    params = stage.params.candidates
    prompts = chosen_prompts(stage, "train", params.prompts)
    rows = []
    for text_row, (prompt_id, prompt) in enumerate(prompts):
        for k in range(params.per_prompt):
            candidate_id = f"{prompt_id}-{k}"
            row = {"candidate_id": candidate_id, "prompt_id": prompt_id, "prompt": prompt, "seed": stage.seed(prompt_id, k)}
            rows.append(row | {"path": f"videos/{candidate_id}.mp4", "row": len(rows), "text_row": text_row})
    stage.say(f"{len(rows)} clips of {len(prompts)} training prompts")

    jobs = [Job(row["candidate_id"], row["prompt"], row["seed"]) for row in rows]
    latents = draw(stage, loaded(generator), jobs, stage.params.sampling, place("videos"), what="candidates")
    made_from = {"base generator": folder_digest(BASE)}
    save_shards(latents, place("latents"), made_from)
    # The empty prompt comes last: SFT and RWR drop prompts, so that the model stays usable for classifier-free guidance.
    texts = [*(prompt for _, prompt in prompts), ""]
    batches = (texts[start : start + TEXT_BATCH] for start in range(0, len(texts), TEXT_BATCH))
    save_shards((generator.encode_text(batch).cpu() for batch in batches), place("text"), made_from)
    write_table(place("candidates.parquet"), rows, SCHEMA)


def chosen_prompts(stage: Stage, split: str, count: int | None) -> list[tuple[str, str]]:
    """(prompt_id, prompt) of `count` prompts of a split of data/source/prompts.csv, sampled by the run's seed; None is all.

    Where the split has fewer, all are used, with a log line. The id is the prompt's index in the file.
    """
    from components.errors import BadInput

    file = "data/source/prompts.csv"
    prompts = read_prompts(file)
    sides = split_prompts(prompts, stage.params.split)
    pool = [(f"p{place:05d}", prompt) for place, prompt in enumerate(prompts) if sides[prompt] == split]
    if not pool:
        raise BadInput(file, f"no prompt falls into the {split} split")
    if len(pool) < (count or 0):
        stage.say(f"{count} prompts requested, the {split} split has {len(pool)}: all are used")
    # One order for all stages: a prompt set of 120 is part of one of 200.
    order = stage.shared_rng("prompts", split).permutation(len(pool))[:count]
    return [pool[i] for i in sorted(order)]


if __name__ == "__main__":
    run_stage("candidates", candidates)
