"""VideoReward's speed as ratios of two ways measured in one run on the same machine.

    python benchmarks/reward.py                                    needs only this repository
    python benchmarks/reward.py --published CKPT --template FILE --videos DIR     and a published model on your videos

Absolute figures of a busy machine are unreliable; each line names the compared ways, which alternate.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import torch
import typer

from components.config.params import RewardParams, load_params
from components.contracts import SOURCE_VIDEOS
from components.reward.card import Norm, PlanCard, RewardCard
from components.reward.frame_cache import cached_clips
from components.reward.inputs import Batch, Clip
from components.reward.model import VideoReward
from components.reward.pairs import Pairs
from components.reward.score import RewardModel, make_input, planned_clip
from components.reward.scores import Unscored
from components.reward.train import build, pair_inputs, pair_loss_fn, parameter_groups, prepare
from components.simulation.render import concrete, render
from components.simulation.world import all_scenes, prompt_of
from components.video.decode import probe, read_frames
from components.video.encode import write_video
from components.video.frames import FramePlan

CLIPS = 200
FRAMES = 9
REPEATS = 3
DIMENSIONS = ["VQ", "MQ", "TA"]


def main(
    published: Annotated[Path | None, typer.Option(help="A run in the published layout.")] = None,
    template: Annotated[Path | None, typer.Option(help="Its prompt template.")] = None,
    videos: Annotated[Path | None, typer.Option(help="Folder of .mp4 files to score with it.")] = None,
    fps: Annotated[float, typer.Option(help="Frames a second that it sees.")] = 2.0,
    max_pixels: Annotated[int, typer.Option(help="Most pixels of a frame that it sees.")] = 448 * 448,
) -> None:
    """Print all ratios."""
    torch.set_num_threads(2)
    if published:
        reference_videos(RewardModel.load(published, template=template), sorted(videos.glob("*.mp4")), fps, max_pixels)
    params = load_params()
    model = build(params.reward)
    prepare(model, params.reward)
    with tempfile.TemporaryDirectory() as folder:
        scoring(Path(folder))
    for count in (2, 8, params.reward.training.batch_size):
        training_step(model, params.reward, count)
    for size, frames, clips in ((32, FRAMES, CLIPS), (256, FRAMES, CLIPS), (480, 81, CLIPS // 5)):
        epoch(model, params.reward, size, frames, clips)


def scoring(folder: Path) -> None:
    """200 clips of the shapes world: the engine against decode, preprocess and forward, clip by clip."""
    items = shapes_clips(folder, CLIPS, 32, FRAMES)
    model = shapes_model()

    def one_by_one() -> list[np.ndarray]:
        return [score_alone(model, video, prompt) for video, prompt in items]

    plain, engine, ratio = compare(one_by_one, lambda: model.score(items))
    say(f"score {CLIPS} clips", f"one by one {plain:.2f} s", f"engine {engine:.2f} s", ratio, 1.5)


def training_step(model: VideoReward, params: RewardParams, count: int) -> None:
    """A training step of VideoReward on `count` pairs: A and B in one forward pass against one pass each."""
    clips = {
        str(i): Clip(np.random.default_rng(i).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), 8.0)
        for i in range(2 * count)
    }
    pairs = made_pairs(list(clips), ["a red circle moving up"] * count)
    loss_fn = pair_loss_fn(model, pair_inputs(model, pairs, clips), pairs, params)
    optimizer = torch.optim.AdamW(parameter_groups(model, params))

    class OneSide(torch.nn.Module):
        """The same scores from two forward passes of half of the batch."""

        def __init__(self):
            super().__init__()
            self.whole = model

        def forward(self, batch: Batch) -> torch.Tensor:
            half, patches = len(batch.input_ids) // 2, int(batch.grid[: len(batch.grid) // 2].prod(1).sum())
            sides = (slice(None, half), slice(None, patches)), (slice(half, None), slice(patches, None))
            parts = [(batch.input_ids[row], batch.pixels[patch], batch.grid[row], batch.fps[row]) for row, patch in sides]
            return torch.cat([model(Batch(*part)) for part in parts])

    def steps(way: torch.nn.Module) -> None:
        for _ in range(5):
            loss, _ = loss_fn(way, list(range(count)), torch.Generator())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    apart = OneSide()
    two, one, ratio = compare(lambda: steps(apart), lambda: steps(model))
    say(f"training step, {count} pairs", f"two forwards {two / 5:.3f} s", f"A and B joined {one / 5:.3f} s", ratio, 1.2)


def epoch(model: VideoReward, params: RewardParams, size: int, frames: int, clips: int) -> None:
    """A later epoch of training on pairs of `clips` files: frames from the cache against decoding again."""
    plan = FramePlan(**params.frames.model_dump(), factor=model.patch_shape.factor)
    quiet = SimpleNamespace(progress=lambda items, *_, **__: items)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        names, prompts = zip(*shapes_clips(SOURCE_VIDEOS, clips, size, frames), strict=True)
        pairs = made_pairs([name.name for name in names], list(prompts[: clips // 2]))

        def decode() -> dict[str, Clip]:
            with ThreadPoolExecutor(params.decode_threads) as pool:
                paths = [*pairs.paths_a, *pairs.paths_b]
                return dict(zip(paths, pool.map(lambda path: planned_clip(SOURCE_VIDEOS / path, plan), paths), strict=True))

        def cached() -> dict[str, Clip]:
            return cached_clips(quiet, [pairs], plan, params.decode_threads)

        def train(clips: dict[str, Clip]) -> None:
            loss_fn = pair_loss_fn(model, pair_inputs(model, pairs, clips), pairs, params)
            for start in range(0, len(pairs), params.training.batch_size):
                part = list(range(start, min(start + params.training.batch_size, len(pairs))))
                loss_fn(model, part, torch.Generator())[0].backward()
                model.zero_grad()

        what = f"{frames} frames of {size} px"
        again, later, ratio = compare(decode, cached)
        say(f"frames of an epoch, {what}", f"decoded {again:.3f} s", f"cached {later:.3f} s", ratio, 2)
        again, later, ratio = compare(lambda: train(decode()), lambda: train(cached()))
        say(f"whole epoch, {what}", f"decoding {again:.2f} s", f"cached {later:.2f} s", ratio, 2)


def made_pairs(paths: list[str], prompts: list[str]) -> Pairs:
    """Pairs of the first half of the clips against the second, with random labels."""
    count = len(prompts)
    return Pairs(
        file=Path("benchmark"),
        pair_ids=paths[:count],
        prompts=prompts,
        paths_a=paths[:count],
        paths_b=paths[count:],
        models_a=paths[:count],
        models_b=paths[:count],
        labels=np.random.default_rng(0).choice([1, -1, 0], (count, 3)),
        ratings=np.zeros((2, count, 3), np.float32),
    )


def reference_videos(model: RewardModel, videos: list[Path], fps: float, max_pixels: int) -> None:
    """Seconds per video of a published model: one by one, by the engine at several batch sizes, and of decoding alone."""
    model.plan = FramePlan(fps, None, model.plan.min_pixels, max_pixels, model.plan.factor)
    items = [(video, "a cat playing with a ball") for video in videos]
    alone = [score_alone(model, *item) for item in items]

    def decode() -> None:
        for video in videos:
            info = probe(video)
            read_frames(video, model.plan.indices(info.frames, info.fps))

    floor = min(timed(decode) for _ in range(REPEATS)) / len(videos)
    plain = min(timed(lambda: [score_alone(model, *item) for item in items]) for _ in range(REPEATS)) / len(videos)
    print(f"{model.plan}, {len(videos)} videos: one by one {plain:.3f} s a video; decoding alone, one thread {floor:.3f} s")
    for budget in (1, 4096, 8192, 16384):
        model.token_budget = budget
        seconds = min(timed(lambda: model.score(items)) for _ in range(REPEATS)) / len(videos)
        scores = [list(score.raw.values()) for score in model.score(items)]
        difference = np.abs(np.array(scores) - np.array(alone)).max()
        print(
            f"  engine, at most {budget:6} tokens a batch: {seconds:.3f} s a video, {plain / seconds:.2f}x one by one,"
            f" {seconds / (floor / 2):.2f}x the floor of decoding in two threads; scores differ by {difference:.1e}"
        )


def shapes_clips(folder: Path, count: int, size: int, frames: int) -> list[tuple[Path, str]]:
    """Files of the shapes world and their prompts; in long clips the motion of nine frames is slowed down."""
    rng, scenes, items = np.random.default_rng(0), all_scenes(), []
    for number in range(count):
        scene = scenes[rng.integers(len(scenes))]
        clip = concrete(scene, rng, size, FRAMES)
        clip = replace(clip, velocity=tuple(v * (FRAMES - 1) / (frames - 1) for v in clip.velocity))
        write_video(folder / f"{number}.mp4", render(clip, size, frames), 8)
        items.append((folder / f"{number}.mp4", prompt_of(scene)))
    return items


def shapes_model() -> RewardModel:
    """Untrained VideoReward of the params on the small VLM: as fast as a trained one."""
    params = load_params().reward
    model = build(params)
    card = RewardCard(
        dimensions=params.dimensions,
        readout=params.readout,
        head=params.head,
        head_trained=False,
        positions=params.positions,
        template=model.prompts.template,
        frame_plan=PlanCard(**params.frames.model_dump(), factor=model.patch_shape.factor),
        normalisation={name: Norm(mean=0.0, std=1.0) for name in params.dimensions},
        tie_thresholds={},
    )
    return RewardModel(model, card, "benchmark")


def score_alone(model: RewardModel, video: Path, prompt: str) -> np.ndarray:
    """Raw scores [D] of a single video."""
    clip = planned_clip(video, model.plan)
    assert not isinstance(clip, Unscored), clip
    with torch.inference_mode():
        return model.model(model.model.batch([make_input(model.model, clip, prompt)]))[0].numpy()


def compare(slow: Callable[[], object], fast: Callable[[], object]) -> tuple[float, float, float]:
    """Median seconds of two alternating ways, after one unmeasured turn, and the median of their ratios."""
    slow(), fast()
    turns = [(timed(slow), timed(fast)) for _ in range(REPEATS)]
    slower, faster = zip(*turns, strict=True)
    return statistics.median(slower), statistics.median(faster), statistics.median(s / f for s, f in turns)


def timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def say(what: str, slow: str, fast: str, ratio: float, wanted: float) -> None:
    print(f"{what:34} {slow}, {fast}: {ratio:.2f}x (wanted: {wanted}x)", flush=True)


if __name__ == "__main__":
    typer.run(main)
