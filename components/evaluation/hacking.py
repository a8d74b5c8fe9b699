"""The hacking alarm: does a method raise the reward while its videos get worse?

Every signal compares a method with base on the same prompts and seeds. A signal raises the alarm only when the change
is both larger than its threshold (params, section evaluate.hacking) and significant: the whole 95% interval of the paired
difference lies on the bad side of zero. Prompts too few for an interval raise no alarm. An alarm blocks promotion.

Held-out judges raise it where they find clips worse that the reward finds better, and where they prefer another clip than
the reward more often than the same one. The judge that decides about promotion may do so, and each one that agrees with
people; of any other judge the change is shown alone.

Two signals are about length. Users of VideoReward report that more frames alone raise its score, so clips that are longer or
shorter than base's raise a separate alarm. The reward per frame is estimated from base's clips where they differ in length;
it is no change against base and raises no alarm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.config.params import HackingParams
from components.evaluation.drift_signals import diversity
from components.evaluation.win_rates import Interval, mean_difference, mean_interval, slope_interval


@dataclass(frozen=True)
class Clips:
    """Measures of one generator's clips, one row per (prompt, seed), in the same order for every generator."""

    prompts: np.ndarray  # [N]
    reward: np.ndarray  # [N] Overall of the reward model that the methods were trained on
    frames: np.ndarray  # [N] number of frames
    dynamic_degree: np.ndarray  # [N] px a frame
    speed_error: np.ndarray | None  # [N] distance from the prompt's speed; None without a gold judge
    brightness: np.ndarray  # [N] in [0, 1]
    saturation: np.ndarray  # [N] chroma in [0, 1]
    descriptors: np.ndarray  # [N, D], see signals.descriptor


@dataclass(frozen=True)
class HeldOut:
    """What a judge that nothing was trained on finds of a method's clips against base's, Overall, in the order of Clips; NaN
    where it has no verdict. `change` [N] in its unit; `points` [N] of the method: 1, 0, one half for a tie. `base` [N] are
    scores of base's clips; None for a judge of pairs. `trusted`: it may raise the alarm."""

    key: str
    title: str  # after "by"
    change: np.ndarray
    points: np.ndarray
    base: np.ndarray | None
    trusted: bool


@dataclass(frozen=True)
class Alarm:
    """`signals` holds each change against base, and `reward_of_length`: the reward's slope on the number of frames among
    base's clips. None where it cannot be estimated."""

    reasons: list[str]  # "name: figures", empty without an alarm
    signals: dict[str, Interval | None]
    base: dict[str, float]  # base's mean of each signal
    limits: dict[str, dict[str, float | None]]  # largest change "down" and "up" from base's mean; None: unlimited
    others: dict[str, Interval]  # changes by held-out judges but for the first, whose is signal held_out

    def as_json(self) -> dict:
        return {
            "alarm": bool(self.reasons),
            "reasons": self.reasons,
            "signals": {name: found and found.as_json() for name, found in self.signals.items()},
            "base": self.base,
            "limits": self.limits,
            "other_judges": {key: found.as_json() for key, found in self.others.items()},
        }


def hacking_alarm(
    method: Clips,
    base: Clips,
    judges: Sequence[HeldOut],
    limits: HackingParams,
    resamples: int,
    rng: np.random.Generator,
) -> Alarm:
    """Compare a method's clips with base's and name every reason for alarm. judges: held-out ones, that which decides
    first."""

    def change(ours: np.ndarray, theirs: np.ndarray, prompts: np.ndarray = base.prompts) -> Interval:
        return mean_difference(ours, theirs, prompts, resamples, rng)

    def change_by(judge: HeldOut) -> Interval:
        known = np.isfinite(judge.change)
        return mean_interval(judge.change[known], base.prompts[known], resamples, rng)

    def change_if_known(ours: np.ndarray | None, theirs: np.ndarray | None) -> Interval | None:
        return None if ours is None or theirs is None else change(ours, theirs)

    if not np.array_equal(method.prompts, base.prompts):
        raise ValueError("the clips of method and base are not in the same order of prompts")
    reward = change(method.reward, base.reward)
    first, *others = judges or [None]
    held_out = first and change_by(first)
    signals: dict[str, Interval | None] = {
        "reward": reward,
        "held_out": held_out,
        "dynamic_degree": change(method.dynamic_degree, base.dynamic_degree),
        # No alarm: it separates a loss of motion from a correction of motion that was too fast.
        "speed_error": change_if_known(method.speed_error, base.speed_error),
        "brightness": change(method.brightness, base.brightness),
        "saturation": change(method.saturation, base.saturation),
        "diversity": None,
    }
    ours, theirs = diversity(method.descriptors, method.prompts), diversity(base.descriptors, base.prompts)
    if theirs:
        signals["diversity"] = change(np.array(list(ours.values())), np.array(list(theirs.values())), np.array(list(theirs)))
    frames = signals["frames"] = change(method.frames, base.frames)
    signals["reward_of_length"] = slope_interval(base.frames, base.reward, base.prompts, resamples, rng)

    found_by_others = {judge.key: change_by(judge) for judge in others if judge}

    before = {"reward": base.reward, "held_out": first and first.base, "speed_error": base.speed_error}
    before |= {name: getattr(base, name) for name in ("dynamic_degree", "brightness", "saturation", "frames")}
    means = {name: float(np.mean(values)) for name, values in before.items() if values is not None}
    means |= {"diversity": float(np.mean(list(theirs.values())))} if theirs else {}
    shifts = {
        "frames": limits.frame_count_shift * means["frames"],
        "brightness": limits.brightness_shift,
        "saturation": limits.saturation_shift * means["saturation"],
    }
    falls = {"dynamic_degree": limits.dynamic_degree_drop, "diversity": limits.diversity_drop}

    reasons = []
    if held_out is not None and reward.above(0) and held_out.below(0):
        reasons.append(f"reward_up_judge_down: reward {reward.value:+.3g}, held-out judge {held_out.value:+.3g}")
    for judge in others:
        if judge and judge.trusted and reward.above(0) and (found := found_by_others[judge.key]).below(0):
            reasons.append(f"reward_up_judge_down: reward {reward.value:+.3g}, {judge.title} {found.value:+.3g}")
    for judge in judges:
        if judge.trusted and (same := same_choice(judge, method, base, resamples, rng)) and same.below(0.5):
            reasons.append(
                f"reward_against_judge: of clips that both decide, the reward prefers {same.value:.0%} as {judge.title} does"
            )
    longer = _drift("frame_count", frames, shifts["frames"])
    if longer and (worth := signals["reward_of_length"]):
        share = worth.value * frames.value
        longer = [f"{longer[0]}; by base's clips, worth {share:+.3g} of the reward's {reward.value:+.3g}"]
    reasons += longer
    reasons += _fall("dynamic_degree", signals, means["dynamic_degree"], falls["dynamic_degree"])
    reasons += _drift("brightness", signals["brightness"], shifts["brightness"])
    reasons += _drift("saturation", signals["saturation"], shifts["saturation"])
    reasons += _fall("diversity", signals, means.get("diversity", 0.0), falls["diversity"])
    allowed: dict[str, dict[str, float | None]] = {
        name: {"down": float(shift), "up": float(shift)} for name, shift in shifts.items()
    }
    allowed |= {name: {"down": share * means[name], "up": None} for name, share in falls.items() if name in means}
    return Alarm(reasons, signals, means, allowed, found_by_others)


def same_choice(judge: HeldOut, method: Clips, base: Clips, resamples: int, rng: np.random.Generator) -> Interval | None:
    """Share of pairs in which a judge and the reward prefer the same clip, of those that both decide; None without any."""
    by_judge, by_reward = np.sign(judge.points - 0.5), np.sign(method.reward - base.reward)
    decided = np.isfinite(by_judge) & (by_judge != 0) & (by_reward != 0)
    if not decided.any():
        return None
    return mean_interval((by_judge == by_reward)[decided].astype(float), base.prompts[decided], resamples, rng)


def _fall(name: str, signals: dict[str, Interval | None], before: float, limit: float) -> list[str]:
    """A fall by more than `limit`, a share of base's mean."""
    found = signals[name]
    if found is None or not found.below(0) or -found.value <= limit * before:
        return []
    return [f"{name}_down: {before + found.value:.3g} instead of base's {before:.3g}, more than {limit:.0%} down"]


def _drift(name: str, found: Interval | None, limit: float) -> list[str]:
    """A shift of the mean by more than `limit`, up or down, in the signal's unit."""
    if found is None or abs(found.value) <= limit or not (found.above(0) or found.below(0)):
        return []
    return [f"{name}_drift: {found.value:+.3g}, more than {limit:.3g} from base"]
