"""Scoring with VideoReward: this repository beside the public implementation, same weights, same videos, in turns.

    git clone https://github.com/KwaiVGI/VideoAlign && uv venv va && uv pip install --python va/bin/python torch==2.13.0 \\
        torchvision==0.28.0 transformers==4.45.2 trl==0.8.6 peft==0.10.0 accelerate==0.34.0 datasets==2.19.2 \\
        'pyarrow<17' 'numpy<2' decord rich pandas
    python benchmarks/videoalign.py VideoAlign va/bin/python REFERENCE VideoAlign/datasets/train/videos

REFERENCE is a folder with `base/`, a small Qwen2-VL with tokenizer, `ckpt_b/`, a run of the public code with all tensors,
and its template. Two sizes: that run (tiny), and one of 40.7M random weights made by the public code. The public code has
float32 and its fastest batch; this repository in each dtype. Every measurement is a process of its own.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer

from components.config.types import Dtype
from components.reward.score import RewardModel, Score

BATCHES = (1, 2, 4, 8)
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
TEMPLATE = "prompt_detailed_special.txt"
PROMPT = "A girl with braided hair and a pink dress walks up to the chair in the room and sits down, number {}."
SHAPE = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 2}
SHAPE |= {"intermediate_size": 1408, "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]}}
VISION = {"depth": 6, "embed_dim": 384, "num_heads": 6, "hidden_size": 512}


def main(
    repository: Path,
    python: Path,
    reference: Path,
    videos: Path,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    count: Annotated[int, typer.Option(min=1, help="Videos to score; files repeat.")] = 12,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    job: Annotated[Path | None, typer.Option(hidden=True)] = None,
    dtype: Annotated[Dtype, typer.Option(hidden=True)] = "float32",
) -> None:
    """Print seconds a video of all ways, their ratio in the same turn, and how far scores are apart."""
    if job is not None:
        print(json.dumps(measure(json.loads(job.read_text()), dtype)))
        return
    files = [file.absolute() for file in sorted(videos.glob("*.mp4"))]
    chosen = [str(files[number % len(files)]) for number in range(count)]
    prompts = [PROMPT.format(number) for number in range(count)]
    arguments = [repository, python, reference, videos]
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("tiny", "40.7M"):
            folder = Path(temporary, name)
            made(folder, reference, name == "40.7M", repository, python, threads)
            work = {"folder": str(folder), "run": "run", "videos": chosen, "prompts": prompts, "threads": threads}
            print(name, flush=True)
            compare(folder, work, repository, python, repeats, arguments)


def made(folder: Path, reference: Path, large: bool, repository: Path, python: Path, threads: int) -> None:
    """A folder with base, run and template."""
    shutil.copytree(reference / "base", folder / "base")
    shutil.copyfile(reference / TEMPLATE, folder / TEMPLATE)
    if not large:
        shutil.copytree(reference / "ckpt_b", folder / "run")
        return
    config = json.loads((folder / "base" / "config.json").read_text())
    config = config | SHAPE | {"vision_config": config["vision_config"] | VISION}
    (folder / "base" / "config.json").write_text(json.dumps(config))
    weights = "import json, transformers as t; t.Qwen2VLForConditionalGeneration(t.AutoConfig.from_pretrained('base'))"
    subprocess.run([python, "-c", f"{weights}.save_pretrained('base')"], cwd=folder, check=True, capture_output=True)
    (folder / "run").mkdir()
    shutil.copyfile(reference / "ckpt_b" / "model_config.json", folder / "run" / "model_config.json")
    run(python, repository, folder, {"folder": str(folder), "run": "run", "videos": [], "threads": threads})


def compare(folder: Path, work: dict[str, Any], repository: Path, python: Path, repeats: int, arguments: list[Path]) -> None:
    trials = {size: run(python, repository, folder, work | {"batch": size}) for size in BATCHES}
    best = min(trials, key=lambda size: trials[size]["seconds"])
    print("  public code, seconds a video by batch: " + ", ".join(f"{n}: {t['seconds']:.3f}" for n, t in trials.items()))
    file = folder / "ours.json"
    file.write_text(json.dumps(work))
    turns: list[dict[str, Any]] = []
    for _ in range(repeats):
        turn = {"public": run(python, repository, folder, work | {"batch": best})}
        for dtype in DTYPES:
            command = [sys.executable, __file__, *arguments, "--job", file, "--dtype", dtype]
            turn[dtype] = output(command)
        turns.append(turn)
    expected = np.array(turns[0]["public"]["scores"])
    for way in turns[0]:
        seconds = [turn[way]["seconds"] for turn in turns]
        ratios = [turn["public"]["seconds"] / turn[way]["seconds"] for turn in turns]
        apart = np.abs(np.array(turns[0][way]["scores"]) - expected).max()
        spread = expected.std(0).mean()
        print(
            f"  {way:9} {median(seconds):.3f} s a video, {median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f});"
            f" peak {turns[0][way]['peak'] / 2**20:.0f} MiB; raw scores at most {apart:.1e} apart, spread {spread:.2f}",
            flush=True,
        )


def run(python: Path, repository: Path, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """One job of the public code."""
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    command = [python.absolute(), Path(__file__).with_name("videoalign_reference.py"), repository.absolute(), file]
    return output(command) if job["videos"] else subprocess.run(command, check=True, capture_output=True) and {}


def output(command: list[Any]) -> dict[str, Any]:
    printed = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def measure(work: dict[str, Any], dtype: Dtype) -> dict[str, Any]:
    """This repository's way: the model folder in the published layout, through `RewardModel.score`."""
    torch.set_num_threads(work["threads"])
    folder = Path(work["folder"])
    model = RewardModel.load(folder / work["run"], template=folder / TEMPLATE, dtype=dtype)
    items = list(zip(map(Path, work["videos"]), work["prompts"], strict=True))
    scores = model.score(items)
    start = time.perf_counter()
    model.score(items)
    seconds = (time.perf_counter() - start) / len(items)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows = [list(score.raw.values()) for score in scores if isinstance(score, Score)]
    return {"seconds": seconds, "peak": peak, "scores": rows}


if __name__ == "__main__":
    typer.run(main)
