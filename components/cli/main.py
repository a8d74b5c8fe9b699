"""The command `reelign`: all of its commands in groups, and those that belong to no area.

`dvc repro` runs the pipeline, `python -m components.<area>.<stage>` a stage. Heavy libraries are imported by the commands
that need them, so that `--help` is fast.
"""

import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from components.cli.annotation import app as annotate
from components.cli.evaluation import ablation, vbench
from components.cli.gateway import gateway
from components.cli.generator import generate
from components.cli.judge import app as judge
from components.cli.kubeflow import export_kfp, submit_kfp
from components.cli.lora import app as lora
from components.cli.output import AsJson, print_json
from components.cli.registry import lineage, promote
from components.cli.reward import bench_reward, check_reward_model, export_reward, score
from components.cli.serving import deploy, monitor, serve
from components.cli.stages import run_stage, run_with
from components.cli.storage import gc
from components.cli.study import app as study
from components.config.profiles import PROFILES, profile_file
from components.errors import BadInput, exit_codes
from components.files.atomic import atomic_write
from components.files.locks import sole_writer
from components.pipeline.memory import keep_freed_memory

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    if wanted:
        print(f"reelign {version('reelign')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Turn human preferences between generated videos into better video generators."""


def profile(
    name: Annotated[str, typer.Argument(help="A file of infra/profiles without .yaml, e.g. shapes or examples.")],
    force: Annotated[bool, typer.Option(help="Overwrite a params.yaml that was edited.")] = False,
) -> None:
    """Put a profile in place: copy infra/profiles/NAME.yaml over params.yaml (`dvc repro` then runs what changed).

    Folders that the profile starts from and that are not there yet are named, and made, empty. Refused while a pipeline run
    is under way here: its later stages would read other params.
    """
    from components.cli.doctor import make_missing_inputs
    from components.config.params import load_params

    chosen = chosen_profile(name)
    load_params(chosen)
    put_in_params(chosen.read_bytes(), force)
    print(f"params.yaml is now profile {name}")
    for line in make_missing_inputs():
        print(line)


def put_in_params(content: bytes, force: bool) -> None:
    """Write params.yaml. BadInput where it was edited, without `force`, and while a run is under way."""
    from components.config.params import load_params

    current = Path("params.yaml")
    if current.exists() and not force:
        edited = load_params(current)  # names a wrong key first
        if edited not in [load_params(path) for path in PROFILES.glob("*.yaml")]:
            why = "was edited and equals no profile; `dvc repro` runs it unchanged, --force overwrites it"
            raise BadInput(current, why)
    if not current.exists() or current.read_bytes() != content:
        from components.pipeline.pipeline_run import refuse_while_running

        refuse_while_running(Path.cwd())
        atomic_write(current, content)


def fetch(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="NAME or NAME@REVISION on the hub, e.g. Wan-AI/Wan2.1-T2V-1.3B-Diffusers.")],
    to: Annotated[Path, typer.Option(help="Folder to write; name it in params.yaml.")],
    digest: Annotated[str | None, typer.Option(help="Digest of an earlier fetch; exit code 2 if it differs.")] = None,
) -> None:
    """Fetch a generator or a base model from the hub, and print the commit and digest that pin it."""
    from components.cli.hub import fetch as bring

    context.with_resource(sole_writer(to))
    commit, found = bring(model, to, digest)
    print(f"{to}: commit {commit}, digest {found}")


def doctor(
    profile: Annotated[str | None, typer.Option(help="Plan an alignment with this profile instead of checking.")] = None,
    tflops: Annotated[
        float | None, typer.Option(help="Sustained TFLOP/s of a GPU.", show_default="measured here", min=1e-3)
    ] = None,
    memory: Annotated[float | None, typer.Option(help="GiB of a GPU.", show_default="this machine's", min=0.1)] = None,
    gpus: Annotated[int, typer.Option(help="GPUs that share the work (infra/accelerate/fsdp.yaml).", min=1)] = 1,
    fit: Annotated[
        bool, typer.Option("--fit", help="Print params with which the profile fits --memory, as YAML, in place of the plan.")
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="With --fit: make params.yaml of the profile and them.")] = False,
    force: Annotated[bool, typer.Option("--force", help="With --write: overwrite a params.yaml that was edited.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check this installation: environment, params, graph, video round trip, pretrained models, disk and memory.

    With --profile it prints parameters, memory by stage and part, steps, clips and hours of aligning a generator and
    training its reward models. Exit code 1 where something does not fit.

    --fit changes microbatch, accumulation, checkpointing, offload and decoding alone: the batch of an optimizer step stays.
    Exit code 2 where nothing fits, with the memory that would.
    """
    if (write and not fit) or (force and not write):
        raise BadInput("--write", "needs --fit; --force needs --write")
    if fit and (profile is None or memory is None or as_json):
        raise BadInput("--fit", "needs --profile and --memory, and prints YAML")
    if fit:
        fit_profile(str(profile), float(memory or 0), gpus, write, force)
        return
    if profile is None:
        from components.cli.doctor import examine

        fine = examine(as_json)
    else:
        if as_json:
            raise BadInput("reelign doctor", "--json lists the checks; a plan with --profile is text")
        from components.config.params import load_params
        from components.planning.plan import plan

        fine = plan(load_params(chosen_profile(profile)), tflops, memory, gpus)
    if not fine:
        raise typer.Exit(1)


def fit_profile(name: str, memory: float, gpus: int, write: bool, force: bool) -> None:
    """Print, and write where asked, what makes a profile fit."""
    import yaml

    from components.config.params import load_params
    from components.planning import fit
    from components.planning.budget import measure

    chosen = chosen_profile(name)
    params = load_params(chosen)
    changed = fit.changes(params.model_dump(), fit.fitted(params, measure(params), memory, gpus).model_dump())
    print(f"# {name} on {gpus} of {memory:g} GiB: " + ("these params change" if changed else "fits as it is"))
    print(yaml.safe_dump(changed, sort_keys=False) if changed else "{}", end="")
    if write:
        put_in_params(fit.edited(chosen.read_text(), changed).encode(), force)
        print(f"# params.yaml is now profile {name} with them", file=sys.stderr)


def rehearse(
    profile: Annotated[str, typer.Option(help="A file of infra/profiles without .yaml.")],
    clip: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTHxFRAMES in place of the profile's size, e.g. 64x64x9 without a GPU.")
    ] = None,
    last: Annotated[str, typer.Option(help="Stage to end with.")] = "evaluate",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder of the rehearsal, with models and clips.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run every stage of a profile once, at its models' true sizes, before anybody rents a GPU.

    Two optimizer steps, two sampling steps and a few prompts, in the profile's own precision and microbatches. Models that
    are not here get random weights. Prints seconds, memory, bytes and the hours that the profile's own counts would take.
    A rehearsal that failed or was killed continues at the stage where it stopped.
    """
    from components.config.params import Params, load_params
    from components.planning import rehearsal

    params, size = load_params(chosen_profile(profile)), None if clip is None else clip_size(clip)
    with sole_writer(rehearsal.PLACE / profile):
        say = (lambda text: print(text, file=sys.stderr, flush=True)) if as_json else print
        seen = rehearsal.rehearse(params, size, last, say)
        rows = rehearsal.table(params, Params.model_validate(rehearsal.cut_params(params, size)), seen)
        untried = rehearsal.not_tried(params, size)
        if as_json:
            print_json({"profile": profile, "clip": clip, "stages": rows, "not_tried": untried})
        else:
            print("\n".join([*rehearsal.as_lines(rows), "Not tried:", *(f"  {line}" for line in untried)]))
        if not keep:
            rehearsal.remove(params)


def clip_size(text: str) -> tuple[int, int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if found is None:
        raise BadInput("--clip", f"{text!r} is no HEIGHTxWIDTHxFRAMES, such as 64x64x9")
    height, width, frames = map(int, found.groups())
    return height, width, frames


def chosen_profile(name: str) -> Path:
    """The file of a profile; BadInput names those there are."""
    chosen = profile_file(name)
    if not chosen.exists():
        have = ", ".join(sorted(path.stem for path in PROFILES.glob("*.yaml")))
        raise BadInput(chosen, f"no such profile; there are {have}")
    return chosen


# Panel of the help, then name, command and example of each.
COMMANDS: dict[str, dict[str, tuple[Callable, str]]] = {
    "Start": {
        "doctor": (doctor, "reelign doctor --profile wan2.1-1.3b --tflops 400 --memory 80 --gpus 8"),
        "rehearse": (rehearse, "reelign rehearse --profile wan2.1-1.3b --clip 64x64x9"),
        "profile": (profile, "reelign profile examples"),
        "fetch": (fetch, "reelign fetch Qwen/Qwen2-VL-2B-Instruct --to downloads/Qwen2-VL-2B-Instruct"),
    },
    "Reward model": {
        "score": (score, "reelign score --csv clips.csv --out scores.parquet"),
        "bench-reward": (bench_reward, "reelign bench-reward pairs.csv --videos DIR"),
        "check-reward": (check_reward_model, 'reelign check-reward models/video_reward clip.mp4 --prompt "a red circle"'),
        "export-reward": (export_reward, "reelign export-reward models/video_reward OUT --layout videoalign"),
        "ablation": (ablation, "reelign ablation --out report/ablation.html"),
    },
    "Clips": {
        "generate": (generate, 'reelign generate --prompt "a red circle moving up" --lora models/aligned/dpo'),
        "vbench": (vbench, "reelign vbench clips/ --results evaluation_results --out vbench.json"),
    },
    "Registry and serving": {
        "promote": (promote, "reelign promote --model generator_dpo --dry-run"),
        "lineage": (lineage, "reelign lineage video_reward@champion"),
        "serve": (serve, "reelign serve --install --live live"),
        "gateway": (gateway, "reelign gateway --triton http://127.0.0.1:8000 --root clips"),
        "deploy": (deploy, "reelign deploy http://127.0.0.1:8000 --live live"),
        "monitor": (monitor, "reelign monitor --out record.json --plot drift.png"),
    },
    "Orchestration": {
        "run-stage": (run_stage, "reelign run-stage reward --profile smoke"),
        "run-with": (run_with, "reelign run-with reward_bench promote --dry-run"),
        "export-kfp": (export_kfp, "reelign export-kfp --gpu-node cloud.google.com/gke-accelerator=nvidia-l4"),
        "submit-kfp": (submit_kfp, "reelign submit-kfp https://kubeflow.example.com/pipeline --profile wan2.1-1.3b --wait"),
        "gc": (gc, "reelign gc --days 60"),
    },
}
for panel, commands in COMMANDS.items():
    for name, (command, example) in commands.items():
        settings = {"allow_interspersed_args": False} if command is run_with else {}
        app.command(name, rich_help_panel=panel, epilog=f"Example: {example}", context_settings=settings)(command)
app.add_typer(annotate, name="annotate", rich_help_panel="Labels of people")
app.add_typer(study, name="study", rich_help_panel="Labels of people")
app.add_typer(judge, name="judge", rich_help_panel="Labels of people")
app.add_typer(lora, name="lora", rich_help_panel="Clips")


def main() -> None:
    keep_freed_memory()
    with exit_codes():
        try:
            app()
        except ModuleNotFoundError as error:
            library = (error.name or "").partition(".")[0]
            if library in ("", "components"):
                raise
            why = f"{library} is not installed: `pip install reelign[ml]` has all commands, reelign[client] `score --triton`"
            raise BadInput("reelign", why) from error


if __name__ == "__main__":
    main()
