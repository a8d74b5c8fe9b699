"""Stage `online@METHOD`: on-policy alignment, and its clips of evaluation prompts against base's.

nft, grpo and dpo learn in rounds (loop.py): the policy draws, VideoReward scores, training follows. prfl follows the latent
reward's gradient without drawing. Every method starts from base with a new LoRA, and is evaluated like those of `align`:
same prompts and seeds. Judges see evaluation prompts alone, and no round sees one.
"""

import sys
from functools import partial

import pandas as pd

from components.alignment.policy import new_policy, save_aligned
from components.contracts import BASE_GENERATOR, SAMPLE_SCORES, SAMPLES, VIDEO_REWARD
from components.evaluation.compare import compare, headline
from components.evaluation.sample import draw_samples
from components.evaluation.settings import drawn_with, write_settings
from components.generator.spec import SamplerSpec
from components.online.learners import LEARNERS
from components.online.loop import Rows, run_rounds
from components.online.page import online_page
from components.online.prfl import train_prfl
from components.pipeline.stage import Stage, folder_digest, stage_main, write_json


def online(method: str, stage: Stage) -> None:
    """Reads models/base_generator, models/video_reward, the training prompts and data/samples/base. prfl, and a first round
    on candidates, also read data/candidates, their scores, pairs and clips; prfl reads models/latent_reward. Writes
    models/online/METHOD, data/online/METHOD (scores of all drawn clips, samples and their scores), metrics, the rounds as a
    plot, and report/online-METHOD.html.

    Fails with BadInput as candidates, relabel and align do, and where the method cannot learn from what params set. A killed
    run goes on from the last finished round and ends with the same weights.
    """
    params, folder, name = stage.params, stage.output(f"data/online/{method}"), f"online-{method}"
    rows, figures = align(method, stage)
    pd.DataFrame(figures or rows).to_csv(stage.output(f"plots/{name}.csv"), index=False)
    spec = SamplerSpec(BASE_GENERATOR, str(stage.output(f"models/online/{method}")), params.base_generator.dtype)
    draw_samples(stage, spec, folder / "samples")
    write_settings(folder / "samples", drawn_with(params, folder_digest(BASE_GENERATOR)))
    settings = params.evaluate.model_copy(update={"methods": [name]})
    clips, metrics = compare(stage, {"base": SAMPLES / "base", name: folder / "samples"}, settings)
    clips.drop(columns="video").to_parquet(folder / SAMPLE_SCORES.name, index=False)
    write_json(stage.output(f"metrics/{name}.json"), metrics | {"rounds": figures})
    write_json(stage.output(f"metrics/{name}-headline.json"), headline(metrics))
    page = online_page(method, metrics, pd.DataFrame(figures), pd.DataFrame(rows))
    stage.output(f"report/{name}.html").write_text(page)
    for judge, rates in metrics["methods"][name]["win_rate"].items():
        stage.say(f"wins {rates['Overall']['value']:.1%} against base by {judge}")


def align(method: str, stage: Stage) -> tuple[Rows, Rows]:
    """Train and write models/online/METHOD, and the scores of all drawn clips to data/online/METHOD. Returns the logged rows
    and the figures of each round; none for prfl, which has no rounds."""
    base, folder = folder_digest(BASE_GENERATOR), stage.output(f"data/online/{method}")
    folder.mkdir(parents=True, exist_ok=True)
    transformer = new_policy(stage)
    if method == "prfl":
        rows, figures, examples = train_prfl(stage, transformer), [], 0
    else:
        learner = LEARNERS[method](stage)
        rows, figures, scores = run_rounds(stage, transformer, learner, stage.params.online.rounds[method])
        scores.to_parquet(folder / "scores.parquet", index=False)
        examples = len(scores)
    record = {"method": f"online-{method}", "base": base, "examples": examples, "reward_model": folder_digest(VIDEO_REWARD)}
    save_aligned(stage, transformer, f"models/online/{method}", rows, record)
    return rows, figures


if __name__ == "__main__":
    stage_main(f"online@{sys.argv[1]}", partial(online, sys.argv[1]))
