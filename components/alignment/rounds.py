"""Stage `round@K` (K = 2, 3, ...): Flow-DPO again, on candidates of the model of the round before (iterative DPO).

The aligned model draws new clips of the training prompts, and VideoReward labels them. Training continues from the model's
LoRA, with the model itself as the reference. Round 1 is candidates, relabel and align@dpo. Each round is evaluated like
every method: its clips of the evaluation prompts against base's, same prompts and seeds.
"""

import sys
from functools import partial
from pathlib import Path

from accelerate import PartialState

from components.alignment.candidates import BASE, draw_candidates
from components.alignment.data import load_candidates, load_pairs
from components.alignment.lora import add_lora, check_base, make_lean, resume_lora
from components.alignment.relabel import label, pair_schema, score_schema
from components.alignment.stage import dpo, save_aligned
from components.evaluation.compare import SAMPLES, compare, headline
from components.evaluation.sample import draw_samples
from components.evaluation.settings import drawn_with, write_settings
from components.generator.wan import load_generator, load_transformer
from components.guidance.solvers import Drawer
from components.stage import Stage, folder_digest, run_stage, write_json
from components.tables import write_table


def online_round(number: str, stage: Stage) -> None:
    before, base, params = Path(stage.params.align.rounds[number]), folder_digest(BASE), stage.params
    check_base(before, base)
    folder = stage.output(f"data/rounds/{number}")
    folder.mkdir(parents=True)
    generator = load_generator(BASE, before, params.base_generator.dtype)
    draw_candidates(stage, generator, lambda name: folder / name)
    del generator
    scores, pairs, dimensions = label(stage, folder)
    write_table(folder / "scores.parquet", scores, score_schema(dimensions))
    write_table(folder / "pairs.parquet", pairs, pair_schema(dimensions))

    transformer = load_transformer(BASE, params.base_generator.dtype).to(PartialState().device)
    add_lora(transformer, params.align.lora, seed=stage.seed("lora"))
    resume_lora(transformer, before)
    make_lean(transformer, params.align)
    files = {name: folder_digest(folder / name) for name in ("pairs.parquet", "latents", "text", "candidates.parquet")}
    identity = {"base generator": base, "dtype": params.base_generator.dtype, "adapter": folder_digest(before), **files}
    rows, count = dpo(stage, transformer, load_pairs(load_candidates(base, folder), folder / "pairs.parquet"), identity)
    record = {"method": f"round-{number}", "base": base, "examples": count, "reward_model": scores[0]["reward_model"]}
    save_aligned(stage, transformer, f"models/rounds/{number}", rows, record)

    drawer = Drawer(BASE, str(stage.output(f"models/rounds/{number}")), params.base_generator.dtype)
    draw_samples(stage, drawer, folder / "samples")
    write_settings(folder / "samples", drawn_with(params, base))
    name = f"round-{number}"
    settings = params.evaluate.model_copy(update={"methods": [name]})
    _, metrics = compare(stage, {"base": SAMPLES / "base", name: folder / "samples"}, settings)
    rewards = [row["reward"] for row in scores]
    metrics["candidates"] = {"reward": sum(rewards) / len(rewards), "pairs": len(pairs)}
    write_json(stage.output(f"metrics/round-{number}.json"), metrics)
    write_json(stage.output(f"metrics/round-{number}-headline.json"), headline(metrics))
    rate = metrics["methods"][name]["win_rate"]["reward"]["Overall"]
    stage.say(
        f"candidates' mean reward {metrics['candidates']['reward']:.3f}; wins {rate['value']:.1%} against base by reward"
    )


if __name__ == "__main__":
    run_stage(f"round@{sys.argv[1]}", partial(online_round, sys.argv[1]))
