"""Score videos with VideoReward: decode ahead in threads, batch to a token budget, each distinct video and prompt once.

A video that cannot be scored gives an `Unscored` with the reason; no score is ever made up.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from components.config.types import Dtype
from components.errors import BadInput
from components.files.tables import text_of
from components.pipeline.stage import Stage, folder_digest
from components.reward.ahead import HELD, ahead
from components.reward.card import RewardCard
from components.reward.inputs import Clip, Input
from components.reward.model import VideoReward, load_video_reward
from components.reward.published import LATEST, is_published, load_published
from components.reward.scores import OVERALL, Score, Unscored, score_names, version_in
from components.video.container import VideoError
from components.video.decode import VideoInfo, read_chosen
from components.video.frames import FramePlan, resize_frame
from components.video.limits import LIMITS, Limits

if TYPE_CHECKING:
    import pandas as pd

WINDOW = 128  # videos that are decoded ahead and sorted by length together


def need_scores(known: Iterable[str], names: Sequence[str]) -> None:
    """BadInput where a model's scores, `known`, lack one of `names`."""
    if missing := [name for name in names if name not in set(known)]:
        why = f"VideoReward has no score {', '.join(missing)}, and methods are compared by {', '.join(names)}"
        raise BadInput("params.yaml", f"{why}: train it on all, or stop at reward_bench", key="reward.dimensions")


def with_overall(normalised: np.ndarray, dimensions: Sequence[str]) -> np.ndarray:
    """Normalised scores [..., D] to those of score_names: their sum is Overall, unless Overall is a dimension itself."""
    if OVERALL in dimensions:
        return normalised
    return np.concatenate([normalised, normalised.sum(-1, keepdims=True)], -1)


Video = str | Path | Clip
ProgressBar = Callable[[Iterable[Any]], Iterable[Any]]  # as Stage.progress
Note = Callable[[Video, VideoInfo], None]


class RewardModel:
    """A trained VideoReward, ready to score what is within `limits`."""

    def __init__(
        self,
        model: VideoReward,
        card: RewardCard,
        version: str,
        token_budget: int = 8192,
        threads: int = 2,
        limits: Limits = LIMITS,
    ):
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.card = card
        self.version = version
        self.dimensions = card.dimensions
        self.plan = card.frame_plan.plan()
        self.token_budget = token_budget
        self.limits = limits
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)  # kept, as each new thread gets new threads of OpenMP
        self.mean = np.array([card.normalisation[name].mean for name in self.dimensions])
        self.std = np.array([card.normalisation[name].std for name in self.dimensions])

    @classmethod
    def load(
        cls,
        folder: str | Path,
        token_budget: int = 8192,
        threads: int = 2,
        template: str | Path | None = None,
        step: int = LATEST,
        limits: Limits = LIMITS,
        dtype: Dtype | None = None,
    ) -> "RewardModel":
        """Read a model folder, ours or one in the published layout, which needs the file of its prompt template and may
        hold several steps. Weights are in `dtype`, by default the model card's; another one is part of the version. BadInput
        where it is none, is damaged, or has a head that was never trained."""
        if is_published(Path(folder)):
            model, card = load_published(Path(folder), template, step, dtype)
            digest = card.provenance["digest"]
        else:
            model, card = load_video_reward(folder, dtype)
            digest = folder_digest(folder)
        return cls(model, card, version_in(digest, card.dtype, dtype), token_budget, threads, limits)

    def score(
        self,
        items: Sequence[tuple[Video, str]],
        progress: ProgressBar = iter,
        window: int = WINDOW,
        note: Note | None = None,
    ) -> list[Score | Unscored]:
        """A score or a reason for each (video, prompt), in order. Videos that are paths are decoded once each, however
        often they come. `progress` wraps the iteration over distinct videos, for progress; `note` receives what each file is
        like, from the threads that read them. Of prompts that are too long nothing is read."""
        refused = {place: why for place, (_, prompt) in enumerate(items) if (why := self.limits.refuse_prompt(prompt))}
        results: list[Any] = [None] * len(items)
        for place, why in refused.items():
            results[place] = Unscored(why)
        videos = distinct_videos(items, refused)
        inputs: list[Input] = []
        places: list[list[int]] = []
        held = 0

        def read(entry: tuple[Video, dict[str, list[int]]]) -> Clip | Unscored:
            return planned_clip(entry[0], self.plan, self.limits, note, self._check_tokens)

        def flush() -> None:
            for raw, where in zip(raw_scores(self.model, inputs, self.token_budget), places, strict=True):
                score = self._score(raw)
                for place in where:
                    results[place] = score
            inputs.clear()
            places.clear()

        clips = ahead(self.pool, read, videos, window, bytes_of)
        for clip, (_, prompts) in progress(zip(clips, videos, strict=True)):
            held += bytes_of(clip)
            for prompt, where in prompts.items():
                made = clip if isinstance(clip, Unscored) else make_input(self.model, clip, prompt)
                if isinstance(made, Unscored):
                    for place in where:
                        results[place] = made
                else:
                    inputs.append(made)
                    places.append(where)
            if len(inputs) >= window or held >= HELD:
                flush()
                held = 0
        flush()
        return results

    def _check_tokens(self, frames: int, height: int, width: int) -> None:
        """ValueError for planned frames that the model cannot read, whatever the prompt."""
        tokens, most = self.model.patch_shape.tokens(frames, height, width), self.model.backbone.max_tokens
        if tokens > most:
            raise ValueError(f"{frames} frames of {width}x{height} take {tokens} tokens; the model reads at most {most}")

    def _score(self, raw: np.ndarray) -> Score | Unscored:
        if not np.isfinite(raw).all():
            return Unscored("the model's score is not finite")
        normalised = (raw - self.mean) / self.std
        return Score(
            raw=dict(zip(self.dimensions, raw.tolist(), strict=True)),
            normalised=dict(zip(self.dimensions, normalised.tolist(), strict=True)),
            overall=float(with_overall(normalised, self.dimensions)[score_names(self.dimensions).index(OVERALL)]),
            model_version=self.version,
            frame_plan=str(self.plan),
        )


def distinct_videos(
    items: Sequence[tuple[Video, str]], without: Container[int] = ()
) -> list[tuple[Video, dict[str, list[int]]]]:
    """Each video once, in order, with its prompts and the places in `items` of each, but for places in `without`. Clips in
    memory are all distinct."""
    videos: dict[Any, tuple[Video, dict[str, list[int]]]] = {}
    for place, (video, prompt) in enumerate(items):
        if place in without:
            continue
        key = place if isinstance(video, Clip) else str(video)
        videos.setdefault(key, (video, {}))[1].setdefault(prompt, []).append(place)
    return list(videos.values())


def planned_clip(
    video: Video,
    plan: FramePlan,
    limits: Limits = LIMITS,
    note: Note | None = None,
    check: Callable[[int, int, int], None] | None = None,
) -> Clip | Unscored:
    """The frames of the plan, at its size, with their own rate and times, or why there are none. Each is made smaller when
    it is decoded: at its own size one is in memory. `check` may refuse a number of frames of a height and width by
    ValueError."""
    rate, times = float("nan"), ()

    def choose(frames: int, fps: float, height: int, width: int) -> list[int]:
        nonlocal rate, times
        indices, size = plan.indices(frames, fps), plan.resize(height, width)
        rate, times = plan.rate(len(indices), frames, fps), tuple(index / fps for index in indices)
        if check is not None:
            check(len(indices), *size)
        return indices

    def of_file(info: VideoInfo) -> list[int]:
        if note is not None:
            note(video, info)
        return choose(info.frames, info.fps, info.height, info.width)

    def fit(frame: np.ndarray) -> np.ndarray:
        return resize_frame(frame, *plan.resize(*frame.shape[:2]))

    try:
        if not isinstance(video, Clip):
            found = read_chosen(video, of_file, fit, limits)
            return Clip(found, rate, times)
        frames, height, width = video.frames.shape[:3]
        if why := limits.refuse_count(frames) or limits.refuse_frame(width, height):
            return Unscored(why)
        chosen = choose(frames, video.fps, height, width)
        return Clip(np.stack([fit(video.frames[index]) for index in chosen]), rate, times)
    except (VideoError, ValueError) as error:
        return Unscored(str(error))


def bytes_of(clip: Clip | Unscored) -> int:
    return 0 if isinstance(clip, Unscored) else clip.frames.nbytes


def make_input(model: VideoReward, clip: Clip, prompt: str) -> Input | Unscored:
    """Token ids and planned frames, or why the prompt cannot be used."""
    try:
        tokens = model.patch_shape.tokens(*clip.frames.shape[:3])
        ids = model.prompts.ids(prompt, tokens, model.backbone.video_text(clip))
    except ValueError as error:
        return Unscored(str(error))
    most = model.backbone.max_tokens
    if len(ids) > most:
        return Unscored(f"prompt and video take {len(ids)} tokens; the model reads at most {most}")
    return ids, clip


def raw_scores(model: VideoReward, inputs: list[Input], token_budget: int) -> np.ndarray:
    """Raw scores [N, D] float64 of inputs of any length, in batches of at most `token_budget` padded tokens."""
    scores = np.zeros((len(inputs), len(model.prompts.dimensions)))
    device = next(model.parameters()).device
    with torch.inference_mode():
        for batch in token_batches([len(ids) for ids, _ in inputs], token_budget):
            scores[batch] = model(model.batch([inputs[place] for place in batch]).to(device)).cpu().numpy()
    return scores


def token_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Places grouped so that like lengths go together and count x longest stays within the budget, one at least."""
    batch: list[int] = []
    for place in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[place] > budget:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def score_table(stage: Stage, model: RewardModel, rows: "pd.DataFrame", root: str | Path = ".") -> "pd.DataFrame":
    """Score a table with the columns path (below `root`) and prompt; a row for each, in order, as `as_table` makes them."""
    items = [(Path(root) / path, prompt) for path, prompt in zip(rows["path"], rows["prompt"], strict=True)]
    distinct = len({path for path, _ in items})
    scores = model.score(items, lambda videos: stage.progress(videos, "scoring", total=distinct))
    return as_table(rows["path"], rows["prompt"], scores, model.dimensions)


def as_table(
    paths: Iterable[str], prompts: Iterable[str], scores: Sequence[Score | Unscored], dimensions: list[str]
) -> "pd.DataFrame":
    """Columns path, prompt, status ("ok" or "failed"), reason, raw_<dimension>, <dimension> (normalised), Overall,
    reward_model, frame_plan. A failed row has a reason and no number."""
    import pandas as pd

    table = []
    for path, prompt, score in zip(paths, prompts, scores, strict=True):
        row = {"path": text_of(path), "prompt": prompt}
        if isinstance(score, Unscored):
            table.append(row | {"status": "failed", "reason": text_of(score.reason)})
            continue
        row |= {"status": "ok", "reason": None, **score.normalised, OVERALL: score.overall}
        row |= {f"raw_{name}": value for name, value in score.raw.items()}
        table.append(row | {"reward_model": score.model_version, "frame_plan": score.frame_plan})
    raw = [f"raw_{name}" for name in dimensions]
    columns = ["path", "prompt", "status", "reason", *raw, *score_names(dimensions), "reward_model", "frame_plan"]
    return pd.DataFrame(table, columns=columns)
