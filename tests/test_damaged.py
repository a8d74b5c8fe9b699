"""Damaged inputs: each is read as what it still is, or refused in one line with exit code 2, 3 or 4, and nothing more."""

import contextlib
import csv
import io
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from components.alignment.lora import add_lora, save_lora
from components.annotation.tasks import export
from components.cli.main import app
from components.config.params import load_params
from components.errors import exit_codes
from components.files.tables import write_table
from components.generator.families.wan_small import save_generator
from components.generator.folder import load_generator
from components.guidance.latent_reward import save_latent_reward
from components.pipeline.stage import folder_digest, write_json
from components.reward.pairs import read_pairs
from components.schemas import PAIRS_SCHEMA
from components.video.encode import write_video
from tests.alignment.test_align import LORA, disturb
from tests.annotation.conftest import Exported
from tests.damage import damaged_copy
from tests.generator.small import tiny_generator
from tests.guidance.test_flow_nrg import small_reward
from tests.reward.tiny import saved_model

REFERENCE = Path("../shared/data/reference-open").absolute()
TIMES = int(os.environ.get("REELIGN_DAMAGES", "34"))  # of each kind of input
PROMPT = "a red circle moving up"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Every kind of input, undamaged."""
    folder = tmp_path_factory.mktemp("whole")
    for number in range(4):
        frames = np.random.default_rng(number).integers(0, 255, (9, 32, 32, 3), dtype=np.uint8)
        write_video(folder / f"videos/{number}.mp4", frames, 8)
    saved_model(folder / "video_reward")
    with open(folder / "clips.csv", "w", newline="") as stream:
        rows = [[f"videos/{n}.mp4", f"{PROMPT}, slowly", f"model {n}"] for n in range(4)]
        csv.writer(stream).writerows([["path", "prompt", "model"], *rows])
    labels = ["path_A,path_B,prompt,VQ,MQ,TA,fps_A,MOS_A_VQ"]
    labels += [f"videos/{a}.mp4,videos/{b}.mp4,{PROMPT},A,B,same,8.0,4.5" for a in range(4) for b in range(a)]
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    shutil.copyfile("infra/profiles/smoke.yaml", folder / "params.yaml")
    export(folder / "clips.csv", folder, folder / "annotation", seed=1, ratings=True)
    exported = Exported(folder / "annotation", [])
    exported.write(exported.studio({person: {"VQ": "A", "MQ": "tie", "TA": "B"} for person in (11, 12, 13)}))
    results = [{"video_path": f"videos/{n}.mp4", "video_results": 0.5 + n / 10} for n in range(4)]
    write_json(folder / "vbench_eval_results.json", {"motion_smoothness": [0.65, results]})
    with open(folder / "pairs.parquet", "wb"):
        pairs = [
            {field.name: None for field in PAIRS_SCHEMA}
            | {"pair_id": str(a), "prompt": PROMPT, "path_A": f"{a}.mp4", "path_B": "3.mp4", "VQ": 1, "MQ": 0, "TA": -1}
            | {"decided_by": "given", "annotators": ["given"], "rows": [a + 2]}
            for a in range(3)
        ]
        write_table(folder / "pairs.parquet", pairs, PAIRS_SCHEMA)
    save_generator(tiny_generator(), folder / "generator")
    transformer = load_generator(folder / "generator").model
    reward = small_reward(transformer, False)
    save_latent_reward(reward, folder / "latent_reward", {"generator": folder_digest(folder / "generator")})
    add_lora(transformer, LORA, seed=1)
    disturb(transformer)
    save_lora(transformer, folder / "lora")
    return folder


def reelign(*words: object) -> None:
    app([str(word) for word in words], standalone_mode=False)


def score(where: Path, **changed: Path) -> None:
    model, video = changed.get("model", where / "video_reward"), changed.get("video", where / "videos/0.mp4")
    reelign("score", video, "--prompt", PROMPT, "--model", model, "--out", "out/scores.parquet")


def generate(where: Path, *more: object, generator: Path | None = None) -> None:
    reelign("generate", "--prompt", PROMPT, "--generator", generator or where / "generator", "--out", "out", *more)


def pairs_table(where: Path, damaged: Path) -> None:
    Path("data/pairs").mkdir(parents=True)
    if damaged.exists():
        damaged.rename("data/pairs/test.parquet")
    read_pairs("test", ["VQ", "MQ", "TA"])


def bench(where: Path, damaged: Path) -> None:
    reelign(
        "bench-reward", damaged, "--videos", where, "--model", where / "video_reward", "--rounds", 10, "--out", "out/bench"
    )


def published(where: Path, damaged: Path) -> None:
    shutil.copytree(REFERENCE / "base", damaged.parent / "base", dirs_exist_ok=True)
    template = REFERENCE / "prompt_detailed_special.txt"
    reelign("score", where / "videos/0.mp4", "--prompt", PROMPT, "--model", damaged, "--template", template)


# What is damaged, and what reads it.
READERS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "params": ("params.yaml", lambda where, damaged: load_params(damaged)),
    "list to score": (
        "clips.csv",
        lambda where, damaged: reelign("score", "--csv", damaged, "--model", where / "video_reward", "--out", "out/s.csv"),
    ),
    "labels": ("labels.csv", bench),
    "export of Label Studio": (
        "annotation",
        lambda where, damaged: reelign(
            "annotate", "import", damaged / "export.json", "--folder", damaged, "--out", "out/labels.csv"
        ),
    ),
    "clips to label": (
        "clips.csv",
        lambda where, damaged: reelign("annotate", "export", "--clips", damaged, "--videos", where, "--out", "out/labels"),
    ),
    "results of VBench": (
        "vbench_eval_results.json",
        lambda where, damaged: reelign("vbench", "--results", damaged, "--out", "out/vbench.json"),
    ),
    "table of pairs": ("pairs.parquet", pairs_table),
    "video": ("videos/1.mp4", lambda where, damaged: score(where, video=damaged)),
    "video, for VBench": (
        "videos/2.mp4",
        lambda where, damaged: reelign("vbench", damaged, "--out", "out/vbench.json"),
    ),
    "reward model": ("video_reward", lambda where, damaged: score(where, model=damaged)),
    "published reward model, adapter": ("ckpt_a", published),
    "published reward model, all tensors": ("ckpt_c", published),
    "generator": ("generator", lambda where, damaged: generate(where, generator=damaged)),
    "LoRA": ("lora", lambda where, damaged: generate(where, "--lora", damaged)),
    "latent reward model": (
        "latent_reward",
        lambda where, damaged: generate(where, "--guide", "TA=1", "--latent-reward", damaged),
    ),
}


@contextlib.contextmanager
def printed() -> Iterator[io.StringIO]:
    """What is printed for errors; warnings of libraries are no errors."""
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield text


def outcome(read: Callable[[Path, Path], None], where: Path, damaged: Path) -> str | None:
    """What is wrong with how `read` takes a damaged input; None where it is right."""
    with printed() as text:
        try:
            with exit_codes():
                read(where, damaged)
            code = 0
        except SystemExit as left:
            code = left.code
        except BaseException as error:  # what a user would see as a traceback
            if type(error).__name__ == "Exit":  # typer's
                code = error.exit_code
            else:
                return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    lines = [line for line in text.getvalue().splitlines() if line.startswith("error: ")]
    if code == 0:
        return None
    left = [str(path) for path in Path("out").rglob("*") if path.is_file()] if Path("out").exists() else []
    if read is READERS["video"][1] or read is READERS["list to score"][1]:
        left = [path for path in left if path not in ("out/scores.parquet", "out/s.csv")]  # a row with the reason
    if code not in (2, 3, 4) or not lines:
        return f"exit code {code}, {lines}"
    if len(lines) > 1 and read is not READERS["list to score"][1]:
        return f"{len(lines)} lines: {lines}"
    return f"left behind: {left}" if left else None


@pytest.mark.parametrize("kind", READERS)
def test_damage_is_one_line(kind, whole, tmp_path, monkeypatch):
    name, read = READERS[kind]
    original = whole / name
    if not original.exists():
        original = REFERENCE / name
        if not original.exists():
            pytest.skip(f"no {REFERENCE}")
    torch.set_num_threads(1)
    wrong = []
    params = Path("infra/profiles/smoke.yaml").read_text()
    for seed in range(TIMES):
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "params.yaml").write_text(params)
        copy = folder / "in" / original.name
        copy.parent.mkdir()
        what = damaged_copy(original, copy, np.random.default_rng([seed, sum(kind.encode())]))
        if original.suffix == ".csv":
            (copy.parent / "videos").symlink_to(whole / "videos")
        monkeypatch.chdir(folder)
        found = outcome(read, whole, copy)
        if found:
            wrong.append(f"{seed}, {what}: {found}")
        shutil.rmtree(folder)
    assert not wrong, f"{len(wrong)} of {TIMES}:\n" + "\n".join(wrong)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q"]))
