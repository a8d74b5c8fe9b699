"""The whole pipeline of profile wan2.1-1.3b at true sizes with random weights: `python benchmarks/true_size.py`.

The transformer is Wan 2.1 1.3B's (30 layers of 12 heads x 128, inner layer 8960) in bfloat16, its VAE is the published one
in float32, UMT5 has 2 of its 24 layers. Qwen2-VL has 2B's widths, with 2 of its 28 layers, 2 of its tower's 32 and a small
vocabulary: VideoReward's weights are in float32 whatever the generator's dtype, and the full model does not train in 24 GB.
Clips are 64 x 64 x 9. Prompts and labelled pairs are of the shapes world. Counts of clips and steps are reduced, and layers
are not compiled, which takes minutes on a CPU; all other params are the profile's.

It copies the tracked files to a new folder, runs `dvc repro evaluate` there, and prints seconds and peak memory by stage.
With --tiny it takes a minute or two, with a narrow generator and a narrow Qwen2-VL.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import torch
import typer
import yaml
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import Qwen2VLForConditionalGeneration, UMT5Config, UMT5EncoderModel

from components.errors import BadInput, exit_codes
from components.generator.costs import architecture
from components.generator.wan import LONGEST_TEXT, word_tokenizer
from components.params import load_params
from components.pretrain_params import VlmShape
from components.reward.pretrain import vlm_config
from components.reward.tokens import train_tokenizer
from components.simulation.render import concrete, spoiled
from components.simulation.world import all_scenes, prompt_of
from components.video.encode import write_video

PROFILE = Path("infra/profiles/wan2.1-1.3b.yaml")
SIZE, FRAMES, FPS = 64, 9, 16
PAIRS = 40
TRUE_VLM = VlmShape(
    hidden=1536, layers=2, heads=12, kv_heads=2, ffn=8960, vision_dim=1280, vision_layers=2, vision_heads=16,
    patch=14, temporal_patch=2, merge=2, vocabulary=512,
)  # fmt: skip
TINY_VLM = TRUE_VLM.model_copy(update={"hidden": 64, "heads": 4, "ffn": 96, "vision_dim": 64, "vision_heads": 4})
TINY = {
    "transformer": {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "text_dim": 32},
    "vae": {"base_dim": 8},
    "text_encoder": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_heads": 2},
}
EVERY = 0.2  # seconds between samples of memory


def main(
    tiny: Annotated[bool, typer.Option("--tiny", help="Narrow models, to try the whole in a minute or two.")] = False,
    folder: Annotated[Path | None, typer.Option(help="New folder to work in [default: a temporary one].")] = None,
) -> None:
    """Make the models and the pairs, run the pipeline, print one row per stage; exit code 1 where the pipeline fails."""
    if folder and folder.exists():
        raise BadInput(folder, "exists already")
    work = folder or Path(tempfile.mkdtemp(prefix="true-size-"))
    copy_tracked_files(work)
    began = time.perf_counter()
    make_generator(work / "downloads/Wan2.1-T2V-1.3B-Diffusers", tiny)
    make_vlm(work / "downloads/Qwen2-VL-2B-Instruct", TINY_VLM if tiny else TRUE_VLM)
    make_preferences(work / "preferences")
    (work / "params.yaml").write_text(yaml.safe_dump(cut_params(), sort_keys=False))
    print(f"{work}: models and pairs made in {time.perf_counter() - began:.0f} s", flush=True)
    code, peaks = watched(["dvc", "repro", "evaluate"], work)
    seconds = re.findall(r"^\[([^\]]+)\] done in ([\d.]+) s", (work / "repro.log").read_text(), re.MULTILINE)
    print(f"{'stage':<18} {'seconds':>8} {'peak GiB':>9}")
    for name, took in seconds:
        print(f"{name:<18} {float(took):>8.1f} {peaks.get(name, 0) / 2**30:>9.2f}")
    print(f"dvc repro evaluate: exit code {code}, {work}/repro.log")
    if code:
        raise typer.Exit(1)


def copy_tracked_files(work: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    for name in tracked.split("\0"):
        # The demo's lock and metrics must not be mistaken for this run's.
        if name and Path(name).exists() and not name.startswith(("tests/", ".dvc/", "metrics/", "dvc.lock")):
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, work / name)
    subprocess.run(["dvc", "init", "--no-scm", "--quiet"], cwd=work, check=True)
    subprocess.run(["dvc", "config", "cache.type", "reflink,hardlink,copy"], cwd=work, check=True)


def make_generator(folder: Path, tiny: bool) -> None:
    """A WanPipeline folder like published ones: transformer and text encoder in bfloat16, the VAE in float32."""
    torch.manual_seed(0)
    configs = architecture(load_params(PROFILE))
    for part, narrow in TINY.items() if tiny else ():
        configs[part] |= narrow
    configs["transformer"] |= {"num_layers": 9} if tiny else {}
    words = sorted({word for scene in all_scenes() for word in prompt_of(scene).split()})
    tokenizer = word_tokenizer(words, LONGEST_TEXT)
    configs["text_encoder"] |= {"num_layers": 2, "pad_token_id": tokenizer.pad_token_id}
    configs["text_encoder"] |= {"vocab_size": len(tokenizer)} if tiny else {}
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(UMT5Config(**configs["text_encoder"])).bfloat16(),
        vae=AutoencoderKLWan.from_config(configs["vae"]),
        transformer=WanTransformer3DModel.from_config(configs["transformer"]).bfloat16(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ).save_pretrained(folder)


def make_vlm(folder: Path, shape: VlmShape) -> None:
    torch.manual_seed(1)
    tokenizer = train_tokenizer([prompt_of(scene) for scene in all_scenes()], shape.vocabulary)
    Qwen2VLForConditionalGeneration(vlm_config(shape, tokenizer)).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_preferences(folder: Path) -> None:
    """Pairs of a clean clip and one with defects in VideoAlign's layout; the clean one wins."""
    rng = np.random.default_rng(0)
    (folder / "videos").mkdir(parents=True)
    scenes = all_scenes()
    rows = []
    for pair, at in enumerate(rng.choice(len(scenes), PAIRS, replace=False)):
        row: dict[str, Any] = {"prompt": prompt_of(scenes[at])}
        clean = "AB"[pair % 2]
        for side in "AB":
            defects = {} if side == clean else {"blur": 0.5, "flicker": 0.5}
            clip = spoiled(concrete(scenes[at], rng, SIZE, FRAMES), defects, rng, SIZE, FRAMES)
            row[f"path_{side}"] = f"videos/{pair:02d}{side}.mp4"
            write_video(folder / row[f"path_{side}"], clip, FPS)
        rows.append(row | dict.fromkeys(("VQ", "MQ", "TA", "Overall"), clean))
    with open(folder / "annotations.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def cut_params() -> dict[str, Any]:
    """The profile with few prompts, clips and steps."""
    params = yaml.safe_load(PROFILE.read_text())
    params["split"] |= {"validation": 0.2, "test": 0.2}
    params["measure"]["workers"] = params["reward"]["decode_threads"] = 2
    params["sampling"] |= {"steps": 2, "height": SIZE, "width": SIZE, "frames": FRAMES, "fps": FPS}
    params["candidates"] = {"prompts": 3, "per_prompt": 2}
    params["relabel"] |= {"min_margin": 0.0, "duels": 1}
    params["align"] |= {"draws": 1, "compile": False}
    params["align"]["dpo"]["validation"], params["align"]["dpo"]["patience"] = 0.0, None
    params["latent_reward"]["min_margin"] = 0.0
    params["best_of_n"] |= {"n": 2, "look": 1}
    params["sample"]["prompts"] = params["tradeoff"]["clips"] = params["evaluate"]["report_prompts"] = 2
    params["tradeoff"]["weights"] = params["tradeoff"]["weights"][:1]
    params["evaluate"]["resamples"] = params["reward_bench"]["bootstrap"] = 50
    methods = [params["align"][name] for name in ("sft", "rwr", "dpo")]
    for section in (params["reward"], params["latent_reward"], *methods):
        section["training"] |= {"steps": 2, "batch_size": 2, "accumulation": 1, "warmup_steps": 1, "log_every": 1}
        section["training"]["validate_every"] = 2
    return params


def watched(command: list[str], work: Path) -> tuple[int, dict[str, int]]:
    """Exit code, and peak resident bytes of each stage's processes; output goes to repro.log."""
    environment = os.environ | {"PYTHONPATH": str(work), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    peaks: dict[str, int] = {}
    with (
        open(work / "repro.log", "w") as log,
        subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None:
            time.sleep(EVERY)
            said = re.findall(r"^Running stage '([^']+)'", (work / "repro.log").read_text(), re.MULTILINE)
            if said:
                peaks[said[-1]] = max(peaks.get(said[-1], 0), resident(process.pid))
    return process.returncode, peaks


def resident(parent: int) -> int:
    """Resident bytes of all child processes of `parent`."""
    total = 0
    try:
        for child in psutil.Process(parent).children(recursive=True):
            total += child.memory_info().rss
    except psutil.NoSuchProcess:  # ended just now
        pass
    return total


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
