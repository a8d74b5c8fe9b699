"""On-policy rounds of one method: the current policy draws clips of fresh prompts, which are scored and trained on.

A finished round is a folder of the stage's state: weights of the policy and of the old policy, the round's figures, the
scores. A killed run goes on from the last finished round, from drawn batches of clips and from `fit`'s checkpoint, and ends
with the same weights.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from safetensors.torch import save_file

from components.alignment.candidates import draw_candidates
from components.alignment.data import Candidates, load_candidates, load_scores
from components.alignment.lora import save_lora
from components.alignment.relabel import score_candidates
from components.alignment.weights import Weights, averaged, copy_of, put
from components.contracts import BASE_GENERATOR, CANDIDATES
from components.errors import BadInput
from components.files.atomic import discard, whole_folder
from components.files.text import read_json
from components.generator.family import VelocityModel
from components.generator.sampler import Loader
from components.generator.spec import SamplerSpec, generator_once
from components.online.drift import drift, measured
from components.online.scale import as_in_round_1
from components.pipeline.stage import Stage, folder_digest, write_json
from components.preferences.prompts import sampled_prompts
from components.runtime.processes import launched_together
from components.runtime.weights import load_tensors

POLICY, OLD, FIGURES, SCORES = "policy.safetensors", "old.safetensors", "round.json", "scores.parquet"
Rows = list[dict[str, float]]


@dataclass(frozen=True)
class Drawn:
    """One round's clips: what training reads of them, their scores (a row each, in the same order) and rewards [N].

    number: of the round, from 0. draws: folder of the state that the sampler kept. before: training steps of the rounds
    before.
    """

    number: int
    candidates: Candidates
    scores: pd.DataFrame
    draws: Path
    before: int

    @property
    def rewards(self) -> np.ndarray:
        return self.scores.reward.to_numpy(dtype=float)

    @property
    def name(self) -> str:
        """Of the round's training, and of its checkpoint."""
        return f"round-{self.number + 1}"


class Learner(Protocol):
    """What a method adds to the loop."""

    @property
    def steps(self) -> int:
        """Training steps of a round."""
        ...

    @property
    def old_decay(self) -> float:
        """Share of the old policy in the next one: old = decay * old + (1 - decay) * policy."""
        ...

    def sampler(self, spec: SamplerSpec, draws: Path) -> Loader:
        """What draws a round's clips. draws: a folder for more than clips and latents."""
        ...

    def learn(self, transformer: VelocityModel, drawn: Drawn, old: Weights) -> Rows:
        """Train on a round's clips; the logged rows."""
        ...


def run_rounds(stage: Stage, transformer: VelocityModel, learner: Learner, rounds: int) -> tuple[Rows, Rows, pd.DataFrame]:
    """Train `transformer`, a new policy, for `rounds` rounds.

    Returns the logged rows of all trainings, a row of figures each round, and the scores of all drawn clips with the column
    `round`. Fails with BadInput as stages `candidates` and `relabel` do.
    """
    state, processes = stage.state() / "rounds", launched_together()
    state.mkdir(exist_ok=True)
    done = finished(state)
    old = copy_of(transformer)
    if done:
        put(transformer, load_tensors(state / done[-1] / POLICY))
        old = {name: weight.to(transformer.device) for name, weight in load_tensors(state / done[-1] / OLD).items()}
        stage.say(f"resumes after round {len(done)} of {rounds}")
    for number in range(len(done), rounds):
        place = stage.output(Path("data/online") / stage.name.partition("@")[2]) / "round"
        first = pd.read_parquet(state / "0000" / SCORES) if number else None
        drawn = draw_round(stage, transformer, learner, number, place, first)
        alarms = drift(drawn.scores if first is None else first, drawn.scores, stage.params.evaluate.hacking)
        if alarms is None:
            stage.say(f"round {number + 1}: too few prompts for a hacking alarm")
        for reason in alarms or ():
            stage.say(f"round {number + 1}: HACKING ALARM: {reason}")
        rows = learner.learn(transformer, drawn, old)
        old = averaged(old, copy_of(transformer), learner.old_decay)
        figures = figures_of(drawn, rows) | ({} if alarms is None else {"alarm": float(bool(alarms))})
        stage.log({f"round/{key}": value for key, value in figures.items()}, number + 1)
        words = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
        stage.say(f"round {number + 1} of {rounds}: {words}")
        if processes.is_main_process:
            with whole_folder(state / f"{number:04d}") as folder:
                scores = drawn.scores.assign(round=number + 1)
                write_round(folder, copy_of(transformer), old, {"figures": figures, "rows": rows}, scores)
            shutil.rmtree(drawn.draws, ignore_errors=True)
            (stage.state() / f"{drawn.name}.pt").unlink(missing_ok=True)
        processes.wait_for_everyone()
        shutil.rmtree(place, ignore_errors=True)
    return collected(state)


def draw_round(
    stage: Stage, transformer: VelocityModel, learner: Learner, number: int, place: Path, first: pd.DataFrame | None
) -> Drawn:
    """The clips of a round by the current policy, scored; data/candidates where params have round 1 learn from them. first:
    scores of round 1, None for that one."""
    params, base = stage.params.online, folder_digest(BASE_GENERATOR)
    draws, before = stage.state() / f"draws-{number + 1}", number * learner.steps
    if number == 0 and params.first_on_candidates:
        candidates = load_candidates(base)
        signals = measured(stage, candidates.table, CANDIDATES)
        return Drawn(number, candidates, load_scores(candidates).join(signals), draws, before)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    draws.mkdir(exist_ok=True)
    save_lora(transformer, place / "policy")
    generator_once.cache_clear()  # a round's policy is drawn from once
    load = learner.sampler(SamplerSpec(BASE_GENERATOR, str(place / "policy"), stage.params.base_generator.dtype), draws)
    prompts = prompts_of_round(stage, number)
    draw_candidates(stage, load, prompts, params.per_prompt, lambda name: place / name, draws.name, ("round", number))
    generator_once.cache_clear()
    found, _ = score_candidates(stage, place)
    scores = pd.DataFrame(found)
    if first is not None:
        scores = as_in_round_1(scores, first, stage.params.relabel)
    candidates = load_candidates(base, place)
    return Drawn(number, candidates, scores.join(measured(stage, candidates.table, place)), draws, before)


def prompts_of_round(stage: Stage, number: int) -> list[tuple[str, str]]:
    """(prompt_id, prompt) of a round's training prompts: the next ones of a random order of all, which begins anew, in
    another order, once all were drawn. No prompt is twice in a round."""
    everything, count = sampled_prompts(stage, "train", None), stage.params.online.prompts
    if count > len(everything):
        why = f"{count} prompts a round, the training split has {len(everything)}"
        raise BadInput("params.yaml", why, key="online.prompts")
    a_pass = len(everything) // count  # rounds until the order begins anew; a rest too small for a round is left out
    order = stage.rng("prompts", number // a_pass).permutation(len(everything))
    start = number % a_pass * count
    return [everything[i] for i in sorted(order[start : start + count])]


def figures_of(drawn: Drawn, rows: Rows) -> dict[str, float]:
    """Mean reward of the drawn clips, of each dimension and signal, spread of rewards within prompts, the training's last
    row."""
    scores = drawn.scores
    within = scores.reward - scores.groupby("prompt_id").reward.transform("mean")
    numbers = scores.select_dtypes("number").mean()
    figures = {"clips": float(len(scores)), "spread": float(np.sqrt((within**2).mean()))}
    figures |= {str(name): float(value) for name, value in numbers.dropna().items()}
    return figures | {key: value for key, value in rows[-1].items() if key != "step" and "/" not in key}


def write_round(folder: Path, policy: Weights, old: Weights, record: dict[str, Any], scores: pd.DataFrame) -> None:
    folder.mkdir()
    save_weights(policy, folder / POLICY)
    save_weights(old, folder / OLD)
    write_json(folder / FIGURES, record)
    scores.to_parquet(folder / SCORES, index=False)


def finished(state: Path) -> list[str]:
    """Names of the finished rounds, in order; a damaged one and those after it are removed."""
    names: list[str] = []
    for folder in sorted(path for path in state.iterdir() if path.name.isdigit()):
        try:
            for file in (POLICY, OLD):
                load_tensors(folder / file)
            read_json(folder / FIGURES)
            pd.read_parquet(folder / SCORES)
        except (BadInput, OSError, ValueError) as error:
            discard(folder, error)
        if not folder.exists() or folder.name != f"{len(names):04d}":
            shutil.rmtree(folder, ignore_errors=True)
            continue
        names.append(folder.name)
    return names


def collected(state: Path) -> tuple[Rows, Rows, pd.DataFrame]:
    """Training rows, figures and scores of all rounds."""
    folders = [state / name for name in finished(state)]
    records: list[Mapping[str, Any]] = [read_json(folder / FIGURES) for folder in folders]
    rows = [row for record in records for row in record["rows"]]
    figures = [{"round": float(number), **record["figures"]} for number, record in enumerate(records, start=1)]
    return rows, figures, pd.concat([pd.read_parquet(folder / SCORES) for folder in folders], ignore_index=True)


def save_weights(weights: Weights, file: Path) -> None:
    save_file({name: weight.cpu().contiguous() for name, weight in weights.items()}, file)
