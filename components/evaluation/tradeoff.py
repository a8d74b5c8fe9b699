"""Stage `tradeoff`: gain and cost of reward guidance over its weights, compared with best of N.

The clips of `sample@base` are sampled again, plainly and with each setting, on the same prompts and seeds (paper Table 5).
Settings alternate batch by batch, so that their times are comparable. Times are in no output, as they differ from run to
run: they go to MLflow and to .reelign/measured/tradeoff.json, which `make summary` reads.
"""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd

from components.engine import kept_rows
from components.errors import BadInput
from components.evaluation.win_rates import DIMENSIONS, win_rate
from components.files import whole_file
from components.generator.sampler import Job
from components.guidance.solvers import Drawer
from components.intervals import as_text
from components.params import BestOfNParams, NrgParams, Params, SamplingParams
from components.reward.score import Clip, RewardModel, need_scores
from components.reward.scores import Unscored, score_names
from components.simulation.judge import judge
from components.stage import Stage, run_stage, write_json
from components.tables import read_table

BASE, LATENT, VIDEO = "models/base_generator", "models/latent_reward", "models/video_reward"
SAMPLES = Path("data/samples/base/samples.parquet")
PLAIN = "plain"
GUIDANCE = "guidance "  # prefix of the scale in a setting's name
SECONDS = "seconds_per_clip/"  # prefix of a setting's name, among the stage's measurements


def tradeoff(stage: Stage) -> None:
    params = stage.params
    model = RewardModel.load(VIDEO)
    need_scores(score_names(model.dimensions), DIMENSIONS)
    drawers, jobs = settings(params), chosen_jobs(stage, params.tradeoff.clips)
    rows = draw_in_turns(stage, drawers, jobs, model, params.evaluate.judge == "gold")
    clips = pd.DataFrame(rows)
    judges = ["gold", "reward"] if params.evaluate.judge == "gold" else ["reward"]
    sides = dict(list(clips.groupby("setting", sort=False)))
    plain = sides.pop(PLAIN)
    rates = {name: compared(side, plain, judges, params, stage.seed("bootstrap")) for name, side in sides.items()}
    facts = {"clips": len(jobs), "prompts": int(plain.prompt_id.nunique())}
    write_json(stage.output("metrics/tradeoff.json"), facts | {"settings": rates})
    clips.drop(columns="seconds").to_parquet(stage.output("data/tradeoff.parquet"), index=False)
    stage.measured({f"{SECONDS}{name}": float(side.seconds.mean()) for name, side in clips.groupby("setting", sort=False)})
    for name, found in rates.items():
        rate = found["win_rate"][judges[0]]["Overall"]
        cost = sides[name].seconds.sum() / plain.seconds.sum()
        wins = as_text(rate, "{:.1%}".format, "({} to {})")
        stage.say(f"{name}: wins {wins} against plain sampling, at {cost:.2f}x its time")


def settings(params: Params) -> dict[str, tuple[Drawer, SamplingParams]]:
    """Name -> drawer and sampling params: plain, Flow-NRG at each of the weights (VQ:MQ:TA), best of N, and other scales of
    classifier-free guidance, whose gain needs no reward model."""

    def drawer(guidance: NrgParams | BestOfNParams | None = None, reward: str | None = None) -> Drawer:
        return Drawer(BASE, dtype=params.base_generator.dtype, guidance=guidance, reward=reward)

    plain = params.sampling
    found = {PLAIN: (drawer(), plain)}
    for weights in params.tradeoff.weights:
        name = ":".join(f"{weights.get(dimension, 0.0):g}" for dimension in params.latent_reward.dimensions)
        found[name] = drawer(params.nrg.model_copy(update={"weights": weights}), LATENT), plain
    for best in params.tradeoff.best_of:
        by_video = best.judge == "video_reward"
        after = "" if by_video else f" after step {best.look}"
        found[f"best of {best.n}{after}"] = drawer(best, VIDEO if by_video else LATENT), plain
    for scale in params.tradeoff.guidance_scales:
        found[f"{GUIDANCE}{scale:g}"] = drawer(), plain.model_copy(update={"guidance_scale": scale})
    return found


def chosen_jobs(stage: Stage, clips: int) -> list[tuple[str, Job]]:
    """(prompt_id, job) of base's first `clips` samples, in the order of seeds, then prompts; with base's noise."""
    table = pd.DataFrame(read_table(SAMPLES)).sort_values(["seed", "prompt_id"])[:clips]
    return [
        (row.prompt_id, Job(Path(row.path).stem, row.prompt, stage.shared_seed("sample", row.prompt_id, row.seed)))
        for row in table.itertuples()
    ]


def draw_in_turns(
    stage: Stage,
    drawers: dict[str, tuple[Drawer, SamplingParams]],
    jobs: list[tuple[str, Job]],
    reward: RewardModel,
    gold: bool,
) -> list[dict]:
    """One row per setting and job: setting, prompt_id, clip, seconds of sampling, gold_<dimension> and reward_<dimension>.
    Finished batches are kept in the stage's state folder and are not drawn again after a kill."""
    size, state = stage.params.sampling.batch_size, stage.state()
    solvers = {name: (*drawer(), sampling) for name, (drawer, sampling) in drawers.items()}
    batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    turns = [(number, batch, name) for number, batch in enumerate(batches) for name in drawers]
    warm = set()
    rows = []
    for number, batch, name in stage.progress(turns, "batches"):
        done = state / f"{number:05d}-{list(drawers).index(name):02d}.json"
        if (found := kept_rows(done, len(batch))) is None:
            generator, solver, sampling = solvers[name]
            if name not in warm:  # excludes one-time loading and allocation from the times
                solver(generator, [batch[0][1]], sampling)
                warm.add(name)
            own = [job for _, job in batch]
            started = time.perf_counter()
            clips = list(generator.decode(solver(generator, own, sampling)))
            seconds = (time.perf_counter() - started) / len(batch)
            scored = reward.score(
                [(Clip(clip, float(sampling.fps)), job.prompt) for clip, job in zip(clips, own, strict=True)]
            )
            found = []
            for (prompt_id, job), clip, score in zip(batch, clips, scored, strict=True):
                if isinstance(score, Unscored):
                    raise BadInput(SAMPLES, f"{name}: VideoReward has no score: {score.reason}", key=job.clip)
                row = {"setting": name, "prompt_id": prompt_id, "clip": job.clip, "seconds": seconds}
                row |= {f"reward_{d}": score.overall if d == "Overall" else score.normalised[d] for d in DIMENSIONS}
                row |= {f"gold_{d}": value for d, value in judge(clip, job.prompt).scores().items()} if gold else {}
                found.append(row)
            with whole_file(done) as partial:
                partial.write_text(json.dumps(found))
        rows += found
    return rows


def compared(ours: pd.DataFrame, plain: pd.DataFrame, judges: list[str], params: Params, seed: int) -> dict:
    """Win rates against plain sampling by judge and dimension."""
    prompts = plain.prompt_id.to_numpy()
    rates = {
        by: {
            d: win_rate(
                ours[f"{by}_{d}"].to_numpy(),
                plain[f"{by}_{d}"].to_numpy(),
                prompts,
                getattr(params.evaluate.tie_width, by),
                params.evaluate.resamples,
                np.random.default_rng(seed),
            ).as_json()
            for d in DIMENSIONS
        }
        for by in judges
    }
    return {"win_rate": rates}


if __name__ == "__main__":
    run_stage("tradeoff", tradeoff)
