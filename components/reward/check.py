"""What a reward model must do with any video, and how it reacts to spoiled ones: `reelign check-reward MODEL VIDEO...`.

Contracts hold or do not: the same input gives the same score in any company and order; VQ and MQ do not know the prompt; a
file that is no video gets no score. Reactions are reported, not judged: what blur, frozen or shuffled frames and wrong
frame rates do to the scores is the model's own business, and the user's to know before trusting it.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from components.errors import BadInput
from components.reward.score import Clip, RewardModel
from components.reward.scores import Score, Unscored
from components.video.container import VideoError
from components.video.decode import probe, read_frames
from components.video.frames import resize_frame

# Raw scores of one input in unlike batches: float32 sums in another order. Measured: 4e-6 (the published model's layout).
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.3}
OTHER_PROMPTS = ("nothing of the kind", "a very different scene, told at length, " * 8)
SECONDS, FRAMES = 8.0, 512  # largest video: the reactions hold its frames in memory, at the size that the model reads

Item = tuple[Clip, str]


@dataclass(frozen=True)
class Finding:
    """One contract or reaction. `holds` is None for a reaction; `by_dimension` holds largest differences of raw scores
    for a contract, mean changes of normalised scores for a reaction."""

    name: str
    holds: bool | None
    by_dimension: dict[str, float]
    note: str = ""


def load_items(videos: Sequence[Path], prompt: str, model: RewardModel) -> list[Item]:
    """Whole clips in memory; BadInput for one that cannot be read."""

    def fit(frame: np.ndarray) -> np.ndarray:
        return resize_frame(frame, *model.plan.resize(*frame.shape[:2]))

    items = []
    for video in videos:
        try:
            info = probe(video, model.limits)
            first = range(min(info.frames, FRAMES, max(2, round(SECONDS * info.fps))))
            frames = read_frames(video, first, fit, model.limits)
        except (VideoError, ValueError) as error:
            raise BadInput(video, str(error).removeprefix(f"{video}: ")) from error
        items.append((Clip(frames, info.fps), prompt))
    return items


def check_reward(model: RewardModel, items: list[Item], videos: Sequence[Path] | None = None) -> list[Finding]:
    """All contracts, then all reactions. BadInput names the clip, by its file in `videos`, that cannot be scored at all."""
    names = videos or [f"video {number}" for number in range(1, len(items) + 1)]
    alone = np.concatenate([scores(model, [item], "raw", [name]) for item, name in zip(items, names, strict=True)])
    return [*contracts(model, items, alone), *reactions(model, items)]


def contracts(model: RewardModel, items: list[Item], alone: np.ndarray) -> list[Finding]:
    """`alone` [N, D]: raw scores of batches of one."""
    found = []
    limit = TOLERANCE[str(next(model.model.network.parameters()).dtype).removeprefix("torch.")]

    def same(name: str, others: np.ndarray, dimensions: Sequence[str] = tuple(model.dimensions)) -> None:
        gap = np.abs(others - alone).max(0)
        worst = dict(zip(model.dimensions, gap.tolist(), strict=True))
        found.append(Finding(name, all(worst[d] <= limit for d in dimensions), worst, f"at most {limit:g}"))

    same("scored twice", np.concatenate([scores(model, [item], "raw") for item in items]))
    # Other prompts give even a single video company, and the long one pads it on the right.
    crowd = [(clip, prompt) for clip, own in items for prompt in (own, *OTHER_PROMPTS)]
    size = 1 + len(OTHER_PROMPTS)
    same("in one batch, padded", scores(model, crowd, "raw")[::size])
    same("in another order", scores(model, crowd[::-1], "raw")[::-1][::size])
    for number, other in enumerate(OTHER_PROMPTS, start=1):
        changed = scores(model, [(clip, other) for clip, _ in items], "raw")
        before = model.model.prompts.before_prompt()
        same(f"other prompt {number}: {', '.join(before) or 'nothing'} unmoved", changed, before)
    found.append(no_score_for_garbage(model))
    return found


def no_score_for_garbage(model: RewardModel) -> Finding:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.mp4"
        file.write_text("this is not a video")
        (result,) = model.score([(file, "anything")])
    return Finding("a file that is no video gets no score", isinstance(result, Unscored), {}, getattr(result, "reason", ""))


def reactions(model: RewardModel, items: list[Item]) -> list[Finding]:
    """Mean change of normalised scores when the clips are spoiled, their sides of a pair exchanged, or misdescribed."""
    plain = scores(model, items, "normalised")
    rng = np.random.default_rng(0)
    spoil = {
        "blurred": lambda c: replace(c, frames=ndimage.gaussian_filter(c.frames, (0, *[c.frames.shape[1] / 32] * 2, 0))),
        "frozen on the first frame": lambda c: replace(c, frames=np.repeat(c.frames[:1], len(c.frames), 0)),
        "frames shuffled": lambda c: replace(c, frames=c.frames[rng.permutation(len(c.frames))]),
        "played backwards": lambda c: replace(c, frames=c.frames[::-1].copy()),
        "noise": lambda c: replace(c, frames=noisy(c.frames, rng)),
        "frame rate said to be half": lambda c: replace(c, fps=c.fps / 2),
        "frame rate said to be double": lambda c: replace(c, fps=c.fps * 2),
    }
    found = []
    for name, change in spoil.items():
        changed = scores(model, [(change(clip), prompt) for clip, prompt in items], "normalised")
        found.append(Finding(name, None, dict(zip(model.dimensions, (changed - plain).mean(0).tolist(), strict=True))))
    return found


def noisy(frames: np.ndarray, rng: np.random.Generator, sigma: float = 25.0) -> np.ndarray:
    spoiled = np.empty_like(frames)
    for frame, made in zip(frames, spoiled, strict=True):
        made[:] = np.clip(frame + rng.normal(0, sigma, frame.shape), 0, 255)
    return spoiled


def scores(model: RewardModel, items: list[Item], kind: str, names: Sequence[str | Path] | None = None) -> np.ndarray:
    """Scores [N, D], "raw" or "normalised"; BadInput names the clip that has none."""
    rows = []
    for place, result in enumerate(model.score(items)):
        if not isinstance(result, Score):
            raise BadInput(names[place] if names else f"video {place + 1}", result.reason)
        rows.append([getattr(result, kind)[name] for name in model.dimensions])
    return np.array(rows)


def as_lines(findings: list[Finding]) -> list[str]:
    """A line a finding: ok, BROKEN or changed, its name, a figure a dimension."""
    lines = []
    for finding in findings:
        mark = "reacts" if finding.holds is None else "ok" if finding.holds else "BROKEN"
        form = "{} {:+.3f}" if finding.holds is None else "{} {:.1e}"
        figures = "  ".join(form.format(name, value) for name, value in finding.by_dimension.items())
        lines.append(f"{mark:7} {finding.name:42} {figures}  {finding.note}".rstrip())
    return lines
