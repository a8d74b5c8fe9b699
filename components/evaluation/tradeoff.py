"""Stage `tradeoff`: gain and cost of reward guidance over its weights, compared with best of N.

The clips of `sample@base` are sampled again, plainly and with each setting, on the same prompts and seeds (paper Table 5).
Settings alternate batch by batch, so that their times are comparable. Times are in no output, as they differ from run to
run: they go to MLflow and to .reelign/measured/tradeoff.json, which `make summary` reads.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.config.params import Params, SamplingParams
from components.contracts import BASE_GENERATOR, DIMENSIONS, LATENT_REWARD, SAMPLES, TRADEOFF, TRADEOFF_METRICS, VIDEO_REWARD
from components.errors import BadInput
from components.evaluation.judging import REWARD, Panel, columns_of, context_of, ordered, tie_width
from components.evaluation.win_rates import win_rate
from components.files.atomic import atomic_write
from components.files.tables import read_table
from components.generator.family import TextEncoder
from components.generator.prompts import TEXT, encode_ahead
from components.generator.sampler import Job, Loader, prompts_of
from components.generator.spec import SamplerSpec
from components.guidance.best_of_n import BestOfNSpec
from components.guidance.flow_nrg import NrgSpec
from components.judges.judges import load_judges
from components.judges.protocol import REASON, JudgedClip, PointwiseJudge
from components.pipeline.stage import Stage, stage_main, write_json
from components.reward.score import Clip, RewardModel, need_scores
from components.reward.scores import Unscored, score_names
from components.runtime.engine import kept_rows
from components.statistics.intervals import as_text
from components.video.limits import Limits

BASE_SAMPLES = SAMPLES / "base/samples.parquet"
PLAIN = "plain"
GUIDANCE = "guidance "  # prefix of the scale in a setting's name
SECONDS = "seconds_per_clip/"  # prefix of a setting's name, among the stage's measurements


def tradeoff(stage: Stage) -> None:
    """Reads models/base_generator, models/latent_reward, models/video_reward and data/samples/base. Writes
    metrics/tradeoff.json and data/tradeoff.parquet.

    Fails with BadInput for a clip without a score, and a reward model without VQ, MQ or TA. Resumes from finished batches.
    """
    params = stage.params
    specs, jobs = settings(params), chosen_jobs(stage, params.tradeoff.clips)
    plain, sampling = specs[PLAIN]
    encoded = encode_ahead(stage.state() / TEXT, plain, prompts_of([job for _, job in jobs], sampling))
    model = RewardModel.load(VIDEO_REWARD, limits=Limits.of(params.limits))
    need_scores(score_names(model.dimensions), DIMENSIONS)
    judges = judges_of_new_clips(stage)
    clips = pd.DataFrame(draw_in_turns(stage, specs, jobs, encoded, model, judges))
    panel = Panel({key: judge.facts for key, judge in judges.items()}, frozenset(judges))
    sides = dict(list(clips.groupby("setting", sort=False)))
    base = sides.pop(PLAIN)
    rates = {name: compared(side, base, panel, params, stage.seed("bootstrap")) for name, side in sides.items()}
    facts = {"clips": len(jobs), "prompts": int(base.prompt_id.nunique()), **panel.as_json()}
    write_json(stage.output(TRADEOFF_METRICS), facts | {"settings": rates})
    clips.drop(columns="seconds").to_parquet(stage.output(TRADEOFF), index=False)
    stage.measured({f"{SECONDS}{name}": float(side.seconds.mean()) for name, side in clips.groupby("setting", sort=False)})
    for name, found in rates.items():
        rate = found["win_rate"][panel.decides or REWARD]["Overall"]
        cost = sides[name].seconds.sum() / base.seconds.sum()
        wins = as_text(rate, "{:.1%}".format, "({} to {})")
        stage.say(f"{name}: wins {wins} against plain sampling, at {cost:.2f}x its time")


def settings(params: Params) -> dict[str, tuple[Loader, SamplingParams]]:
    """Name -> spec and sampling params: plain, Flow-NRG at each of the weights (VQ:MQ:TA), best of N, and other scales of
    classifier-free guidance, whose gain needs no reward model."""
    sampler, plain = SamplerSpec(BASE_GENERATOR, dtype=params.base_generator.dtype), params.sampling
    found: dict[str, tuple[Loader, SamplingParams]] = {PLAIN: (sampler, plain)}
    for weights in params.tradeoff.weights:
        name = ":".join(f"{weights.get(dimension, 0.0):g}" for dimension in params.latent_reward.dimensions)
        found[name] = NrgSpec(sampler, params.nrg.model_copy(update={"weights": weights}), LATENT_REWARD), plain
    for best in params.tradeoff.best_of:
        by_video = best.judge == "video_reward"
        after = "" if by_video else f" after step {best.rank_step}"
        spec = BestOfNSpec(sampler, best, VIDEO_REWARD if by_video else LATENT_REWARD)
        found[f"best of {best.n}{after}"] = spec, plain
    for scale in params.tradeoff.guidance_scales:
        found[f"{GUIDANCE}{scale:g}"] = sampler, plain.model_copy(update={"guidance_scale": scale})
    return found


def chosen_jobs(stage: Stage, clips: int) -> list[tuple[str, Job]]:
    """(prompt_id, job) of base's first `clips` samples, in the order of seeds, then prompts; with base's noise."""
    table = pd.DataFrame(read_table(BASE_SAMPLES)).sort_values(["seed", "prompt_id"])
    rows: Iterable[Any] = table[:clips].itertuples()

    def seed_of(row: Any) -> int:
        return stage.shared_seed("sample", row.prompt_id, row.seed)

    return [
        (row.prompt_id, Job(Path(row.path).stem, row.prompt, seed_of(row), image=getattr(row, "image", None)))
        for row in rows
    ]


def draw_in_turns(
    stage: Stage,
    specs: dict[str, tuple[Loader, SamplingParams]],
    jobs: list[tuple[str, Job]],
    encoded: TextEncoder,
    reward: RewardModel,
    judges: dict[str, PointwiseJudge],
) -> list[dict]:
    """One row per setting and job: setting, prompt_id, clip, seconds of sampling, reward_<dimension> and JUDGE_<dimension>.
    Finished batches are kept in the stage's state folder and are not drawn again after a kill."""
    size, state = stage.params.sampling.batch_size, stage.state()
    solvers = {name: (*spec(), sampling) for name, (spec, sampling) in specs.items()}
    batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    turns = [(number, batch, name) for number, batch in enumerate(batches) for name in specs]
    warm = set()
    rows = []
    for number, batch, name in stage.progress(turns, "batches"):
        done = state / f"{number:05d}-{list(specs).index(name):02d}.json"
        if (found := kept_rows(done, len(batch))) is None:
            loaded, solver, sampling = solvers[name]
            generator = loaded.with_text(encoded)
            if name not in warm:  # excludes one-time loading and allocation from the times
                solver(generator, [batch[0][1]], sampling)
                warm.add(name)
            own = [job for _, job in batch]
            started = time.perf_counter()
            clips = list(generator.decode(solver(generator, own, sampling), sampling.decoding))
            seconds = (time.perf_counter() - started) / len(batch)
            scored = reward.score(
                [(Clip(clip, float(sampling.fps)), job.prompt) for clip, job in zip(clips, own, strict=True)]
            )
            found = []
            verdicts = judge_clips(clips, own, judges, sampling, name)
            for (prompt_id, job), score, verdict in zip(batch, scored, verdicts, strict=True):
                if isinstance(score, Unscored):
                    raise BadInput(BASE_SAMPLES, f"{name}: VideoReward has no score: {score.reason}", key=job.clip)
                row = {"setting": name, "prompt_id": prompt_id, "clip": job.clip, "seconds": seconds}
                row |= {f"reward_{d}": score.overall if d == "Overall" else score.normalised[d] for d in DIMENSIONS}
                found.append(row | verdict)
            atomic_write(done, json.dumps(found))
        rows += found
    return rows


def judges_of_new_clips(stage: Stage) -> dict[str, PointwiseJudge]:
    """Held-out judges that score single clips, new ones too, the one that decides first. The others are named."""
    judges = ordered(load_judges(stage.params.evaluate.judges, context_of(stage)), stage.params.evaluate.decides)
    fit = {key: one for key, one in judges.items() if isinstance(one, PointwiseJudge) and not one.facts.on_record}
    for judge in judges.values():
        if judge.facts.key not in fit:
            stage.say(f"{judge.facts.name} scores no new clips: it is left out of these comparisons")
    return fit


def judge_clips(
    clips: list[np.ndarray], jobs: list[Job], judges: dict[str, PointwiseJudge], sampling: SamplingParams, name: str
) -> list[dict[str, float]]:
    """JUDGE_<dimension> of each clip; BadInput for one without a verdict."""
    shown = [JudgedClip(job.clip, job.prompt, clip, float(sampling.fps)) for clip, job in zip(clips, jobs, strict=True)]
    rows: list[dict[str, float]] = [{} for _ in clips]
    for judge in judges.values():
        table = judge.score(shown)
        for place, (row, reason) in enumerate(zip(rows, table[REASON], strict=True)):
            if isinstance(reason, str):
                raise BadInput(BASE_SAMPLES, f"{name}: {judge.facts.name} has no verdict: {reason}", key=jobs[place].clip)
            row |= {column: float(table[d].to_numpy()[place]) for d, column in columns_of(judge.facts).items()}
    return rows


def compared(ours: pd.DataFrame, plain: pd.DataFrame, panel: Panel, params: Params, seed: int) -> dict:
    """Win rates against plain sampling by judge and dimension."""
    prompts = plain.prompt_id.to_numpy()
    dimensions = {key: facts.dimensions for key, facts in panel.facts.items()} | {REWARD: DIMENSIONS}
    rates = {
        by: {
            d: win_rate(
                ours[f"{by}_{d}"].to_numpy(),
                plain[f"{by}_{d}"].to_numpy(),
                prompts,
                tie_width(params.evaluate, panel, by),
                params.evaluate.resamples,
                np.random.default_rng(seed),
            ).as_json()
            for d in known
        }
        for by, known in dimensions.items()
    }
    return {"win_rate": rates}


if __name__ == "__main__":
    stage_main("tradeoff", tradeoff)
