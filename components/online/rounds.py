"""Stage `round@K` (K = 2, 3, ...): Flow-DPO again, on candidates of the model of the round before (iterative DPO).

The aligned model draws new clips of the training prompts, and VideoReward labels them. Training continues from the model's
LoRA, with the model itself as the reference. Round 1 is candidates, relabel and align@dpo. Each round is evaluated like
every method: its clips of the evaluation prompts against base's, same prompts and seeds.
"""

import sys
from functools import partial
from pathlib import Path

from accelerate import PartialState

from components.alignment.candidates import draw_candidates
from components.alignment.data import load_candidates, load_pairs
from components.alignment.lora import add_lora, check_base, make_lean, resume_lora
from components.alignment.methods.flow_dpo import train_dpo
from components.alignment.policy import save_aligned
from components.alignment.relabel import label
from components.contracts import BASE_GENERATOR, SAMPLE_SCORES, SAMPLES
from components.evaluation.compare import compare, headline
from components.evaluation.sample import draw_samples
from components.evaluation.settings import drawn_with, write_settings
from components.files.tables import write_table
from components.generator.folder import load_transformer
from components.generator.spec import SamplerSpec, generator_once
from components.pipeline.stage import Stage, folder_digest, stage_main, write_json
from components.preferences.prompts import sampled_prompts
from components.schemas import alignment_pairs_schema, candidate_scores_schema


def online_round(number: str, stage: Stage) -> None:
    """Reads models/base_generator, the LoRA of the round before, models/video_reward and data/samples/base. Writes
    data/rounds/K, models/rounds/K and the round's metrics.

    Fails with BadInput for a LoRA of another generator, and as candidates, relabel and align@dpo do. Resumes from finished
    batches of clips and the last checkpoint of `fit`.
    """
    before, base, params = Path(stage.params.align.rounds[number]), folder_digest(BASE_GENERATOR), stage.params
    check_base(before, base)
    folder = stage.output(f"data/rounds/{number}")
    folder.mkdir(parents=True)
    dtype = params.base_generator.dtype
    prompts = sampled_prompts(stage, "train", params.candidates.prompts)
    load = SamplerSpec(BASE_GENERATOR, str(before), dtype)
    draw_candidates(stage, load, prompts, params.candidates.per_prompt, lambda name: folder / name)
    generator_once.cache_clear()
    scores, pairs, dimensions = label(stage, folder)
    write_table(folder / "scores.parquet", scores, candidate_scores_schema(dimensions))
    write_table(folder / "pairs.parquet", pairs, alignment_pairs_schema(dimensions))

    transformer = load_transformer(BASE_GENERATOR, dtype, params.align.trained_experts).to(PartialState().device)
    add_lora(transformer, params.align.lora, seed=stage.seed("lora"))
    resume_lora(transformer, before)
    make_lean(transformer, params.align)
    files = {name: folder_digest(folder / name) for name in ("pairs.parquet", "latents", "text", "candidates.parquet")}
    identity = {"base generator": base, "dtype": dtype, "adapter": folder_digest(before), **files}
    relabelled = load_pairs(load_candidates(base, folder), folder / "pairs.parquet")
    rows, count = train_dpo(stage, transformer, relabelled, params.align.dpo, identity)
    record = {"method": f"round-{number}", "base": base, "examples": count, "reward_model": scores[0]["reward_model"]}
    save_aligned(stage, transformer, f"models/rounds/{number}", rows, record)

    spec = SamplerSpec(BASE_GENERATOR, str(stage.output(f"models/rounds/{number}")), dtype)
    draw_samples(stage, spec, folder / "samples")
    write_settings(folder / "samples", drawn_with(params, base))
    name = f"round-{number}"
    settings = params.evaluate.model_copy(update={"methods": [name]})
    clips, metrics = compare(stage, {"base": SAMPLES / "base", name: folder / "samples"}, settings)
    clips.drop(columns="video").to_parquet(folder / SAMPLE_SCORES.name, index=False)
    rewards = [row["reward"] for row in scores]
    metrics["candidates"] = {"reward": sum(rewards) / len(rewards), "pairs": len(pairs)}
    write_json(stage.output(f"metrics/round-{number}.json"), metrics)
    write_json(stage.output(f"metrics/round-{number}-headline.json"), headline(metrics))
    rate = metrics["methods"][name]["win_rate"]["reward"]["Overall"]
    stage.say(
        f"candidates' mean reward {metrics['candidates']['reward']:.3f}; wins {rate['value']:.1%} against base by reward"
    )


if __name__ == "__main__":
    stage_main(f"round@{sys.argv[1]}", partial(online_round, sys.argv[1]))
