"""The command `reelign`: all of its commands in groups, and those that belong to no area.

`dvc repro` runs the pipeline, `python -m components.<area>.<stage>` a stage. Heavy libraries are imported by the commands
that need them, so that `--help` is fast.
"""

import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from components.annotation.commands import app as annotate
from components.errors import BadInput, exit_codes
from components.evaluation.commands import ablation, vbench
from components.evaluation.study_commands import app as study
from components.files import whole_file
from components.generator.commands import generate
from components.locks import sole_writer
from components.memory import keep_freed_memory
from components.profiles import PROFILES, profile_file
from components.registry.commands import lineage, promote
from components.reward.commands import bench_reward, check_reward_model, score
from components.serving.commands import deploy, monitor, serve
from components.stage_commands import run_stage, run_with

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
    from components.doctor import make_missing_inputs
    from components.params import load_params

    chosen = chosen_profile(name)
    load_params(chosen)
    current = Path("params.yaml")
    if current.exists() and not force:
        edited = load_params(current)  # names a wrong key first
        if edited not in [load_params(path) for path in PROFILES.glob("*.yaml")]:
            why = "was edited and equals no profile; `dvc repro` runs it unchanged, --force overwrites it"
            raise BadInput(current, why)
    if not current.exists() or current.read_bytes() != chosen.read_bytes():
        from components.pipeline_run import refuse_while_running

        refuse_while_running(Path.cwd())
        with whole_file(current) as partial:
            shutil.copyfile(chosen, partial)
    print(f"params.yaml is now profile {name}")
    for line in make_missing_inputs():
        print(line)


def export_kfp(
    out: Annotated[Path, typer.Option(help="The compiled pipeline, for Kubeflow's page or client.")] = Path("pipeline.yaml"),
) -> None:
    """Compile the graph for Kubeflow Pipelines, with stages, order, image and resources of Airflow (`make kfp`)."""
    from components.kubeflow import export

    export(out)
    print(f"{out} written")


def fetch(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="NAME or NAME@REVISION on the hub, e.g. Wan-AI/Wan2.1-T2V-1.3B-Diffusers.")],
    to: Annotated[Path, typer.Option(help="Folder to write; name it in params.yaml.")],
    digest: Annotated[str | None, typer.Option(help="Digest of an earlier fetch; exit code 2 if it differs.")] = None,
) -> None:
    """Fetch a generator or a base model from the hub, and print the commit and digest that pin it."""
    from components.hub import fetch as bring

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
) -> None:
    """Check this installation: environment, params, graph, video round trip, pretrained models, disk and memory.

    With --profile: parameters, memory by part, steps, clips and hours of aligning a generator and training its reward
    models, and what does not fit; exit code 1 where something does not.
    """
    if profile is None:
        from components.doctor import examine

        fine = examine()
    else:
        from components.params import load_params
        from components.plan import plan

        fine = plan(load_params(chosen_profile(profile)), tflops, memory, gpus)
    if not fine:
        raise typer.Exit(1)


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
        "profile": (profile, "reelign profile examples"),
        "fetch": (fetch, "reelign fetch Qwen/Qwen2-VL-2B-Instruct --to downloads/Qwen2-VL-2B-Instruct"),
    },
    "Reward model": {
        "score": (score, "reelign score --csv clips.csv --out scores.parquet"),
        "bench-reward": (bench_reward, "reelign bench-reward pairs.csv --videos DIR"),
        "check-reward": (check_reward_model, 'reelign check-reward models/video_reward clip.mp4 --prompt "a red circle"'),
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
        "deploy": (deploy, "reelign deploy http://127.0.0.1:8000 --live live"),
        "monitor": (monitor, "reelign monitor --out record.json --plot drift.png"),
    },
    "Orchestration": {
        "run-stage": (run_stage, "reelign run-stage reward --profile smoke"),
        "run-with": (run_with, "reelign run-with reward_bench promote --dry-run"),
        "export-kfp": (export_kfp, "reelign export-kfp --out pipeline.yaml"),
    },
}
for panel, commands in COMMANDS.items():
    for name, (command, example) in commands.items():
        settings = {"allow_interspersed_args": False} if command is run_with else {}
        app.command(name, rich_help_panel=panel, epilog=f"Example: {example}", context_settings=settings)(command)
app.add_typer(annotate, name="annotate", rich_help_panel="Labels of people")
app.add_typer(study, name="study", rich_help_panel="Labels of people")


def main() -> None:
    keep_freed_memory()
    with exit_codes():
        app()


if __name__ == "__main__":
    main()
