"""The hacking alarm: does a method raise the reward while its videos get worse?

Every signal compares a method with base on the same prompts and seeds. A signal raises the alarm only when the change
is both larger than its threshold (params, section evaluate.hacking) and significant: the whole 95% interval of the paired
difference lies on the bad side of zero. Prompts too few for an interval raise no alarm. An alarm blocks promotion.

Two signals are about length. Users of VideoReward report that more frames alone raise its score, so clips that are longer or
shorter than base's raise a separate alarm. The reward per frame is estimated from base's clips where they differ in length;
it is no change against base and raises no alarm.
"""

from dataclasses import dataclass

import numpy as np

from components.evaluation.signals import diversity
from components.evaluation.win_rates import Interval, mean_difference, slope_interval
from components.params import HackingParams


@dataclass(frozen=True)
class Clips:
    """Measures of one generator's clips, one row per (prompt, seed), in the same order for every generator."""

    prompts: np.ndarray  # [N]
    reward: np.ndarray  # [N] Overall of the reward model that the methods were trained on
    held_out: np.ndarray | None  # [N] Overall of a judge that nothing was trained on; None when there is none
    frames: np.ndarray  # [N] number of frames
    dynamic_degree: np.ndarray  # [N] px a frame
    speed_error: np.ndarray | None  # [N] distance from the prompt's speed; None without a gold judge
    brightness: np.ndarray  # [N] in [0, 1]
    saturation: np.ndarray  # [N] chroma in [0, 1]
    looks: np.ndarray  # [N, D], see signals.look


@dataclass(frozen=True)
class Alarm:
    """`signals` holds each change against base, and `reward_of_length`: the reward's slope on the number of frames among
    base's clips. None where it cannot be estimated."""

    reasons: list[str]  # "name: figures", empty without an alarm
    signals: dict[str, Interval | None]
    base: dict[str, float]  # base's mean of each signal
    limits: dict[str, dict[str, float | None]]  # largest change "down" and "up" from base's mean; None: unlimited

    def as_json(self) -> dict:
        return {
            "alarm": bool(self.reasons),
            "reasons": self.reasons,
            "signals": {name: found and found.as_json() for name, found in self.signals.items()},
            "base": self.base,
            "limits": self.limits,
        }


def hacking_alarm(method: Clips, base: Clips, limits: HackingParams, resamples: int, rng: np.random.Generator) -> Alarm:
    """Compare a method's clips with base's and name every reason for alarm."""

    def change(ours: np.ndarray, theirs: np.ndarray, prompts: np.ndarray = base.prompts) -> Interval:
        return mean_difference(ours, theirs, prompts, resamples, rng)

    if not np.array_equal(method.prompts, base.prompts):
        raise ValueError("the clips of method and base are not in the same order of prompts")
    signals: dict[str, Interval | None] = {
        "reward": change(method.reward, base.reward),
        "held_out": None if base.held_out is None else change(method.held_out, base.held_out),
        "dynamic_degree": change(method.dynamic_degree, base.dynamic_degree),
        # No alarm: it separates a loss of motion from a correction of motion that was too fast.
        "speed_error": None if base.speed_error is None else change(method.speed_error, base.speed_error),
        "brightness": change(method.brightness, base.brightness),
        "saturation": change(method.saturation, base.saturation),
        "diversity": None,
    }
    ours, theirs = diversity(method.looks, method.prompts), diversity(base.looks, base.prompts)
    if theirs:
        signals["diversity"] = change(np.array(list(ours.values())), np.array(list(theirs.values())), np.array(list(theirs)))
    signals["frames"] = change(method.frames, base.frames)
    signals["reward_of_length"] = slope_interval(base.frames, base.reward, base.prompts, resamples, rng)

    before = {"reward": base.reward, "held_out": base.held_out, "speed_error": base.speed_error}
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
    reward, held_out = signals["reward"], signals["held_out"]
    if held_out is not None and reward.above(0) and held_out.below(0):
        reasons.append(f"reward_up_judge_down: reward {reward.value:+.3g}, held-out judge {held_out.value:+.3g}")
    longer = _drift("frame_count", signals["frames"], shifts["frames"])
    if longer and (worth := signals["reward_of_length"]):
        share = worth.value * signals["frames"].value
        longer = [f"{longer[0]}; by base's clips, worth {share:+.3g} of the reward's {reward.value:+.3g}"]
    reasons += longer
    reasons += _fall("dynamic_degree", signals, means["dynamic_degree"], falls["dynamic_degree"])
    reasons += _drift("brightness", signals["brightness"], shifts["brightness"])
    reasons += _drift("saturation", signals["saturation"], shifts["saturation"])
    reasons += _fall("diversity", signals, means.get("diversity", 0.0), falls["diversity"])
    allowed = {name: {"down": float(shift), "up": float(shift)} for name, shift in shifts.items()}
    allowed |= {name: {"down": share * means[name], "up": None} for name, share in falls.items() if name in means}
    return Alarm(reasons, signals, means, allowed)


def _fall(name: str, signals: dict[str, Interval | None], before: float, limit: float) -> list[str]:
    """A fall by more than `limit`, a share of base's mean."""
    found = signals[name]
    if found is None or not found.below(0) or -found.value <= limit * before:
        return []
    return [f"{name}_down: {before + found.value:.3g} instead of base's {before:.3g}, more than {limit:.0%} down"]


def _drift(name: str, found: Interval, limit: float) -> list[str]:
    """A shift of the mean by more than `limit`, up or down, in the signal's unit."""
    if abs(found.value) <= limit or not (found.above(0) or found.below(0)):
        return []
    return [f"{name}_drift: {found.value:+.3g}, more than {limit:.3g} from base"]
