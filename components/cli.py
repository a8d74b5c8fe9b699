"""The command `reelign`: score videos, generate clips, choose a profile, check an installation.

`dvc repro` runs the pipeline, `python -m components.<area>.<stage>` a stage. Heavy libraries are imported by the commands
that need them, so that `--help` is fast.
"""

import math
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from components.annotation.commands import app as annotate
from components.errors import BadInput, exit_codes
from components.evaluation.study_commands import app as study
from components.files import whole_file
from components.locks import sole_writer
from components.memory import keep_freed_memory
from components.profiles import PROFILES, profile_file
from components.registry.commands import lineage, promote
from components.reward.commands import bench_reward, check_reward_model, score
from components.serving.commands import deploy, monitor, serve
from components.stage_commands import run_stage, run_with

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(annotate, name="annotate")
app.add_typer(study, name="study")
app.command()(score)
app.command("bench-reward")(bench_reward)
app.command("check-reward")(check_reward_model)
app.command()(promote)
app.command()(lineage)
app.command()(serve)
app.command()(deploy)
app.command()(monitor)
app.command("run-stage")(run_stage)
app.command("run-with", context_settings={"allow_interspersed_args": False})(run_with)


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


@app.command()
def ablation(out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report/ablation.html")) -> None:
    """Compare DVC experiments of the reward model: what differs, and how often each agrees with people."""
    from components.evaluation.ablation import as_rows, read_variants, write_page

    variants = read_variants()
    write_page(out, variants)
    header, rows = as_rows(variants)
    for row in rows:
        print("  ".join(f"{name} {cell}" for name, cell in zip(header, row, strict=True)))
    print(out)


@app.command()
def vbench(
    videos: Annotated[list[Path] | None, typer.Argument(help="Video files, or folders of .mp4 and .gif.")] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(help="A result file of the vbench package (*_eval_results.json), or a folder of them; repeatable."),
    ] = None,
    version: Annotated[int, typer.Option(min=1, max=2, help="1 for VBench, 2 for VBench-2.0.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Also write the table as a .json file.")] = None,
) -> None:
    """VBench's dimensions and scores: what needs no weights is computed here, the rest read from the package's results.

    Temporal flickering of VBench is computed here from VIDEOS. All other dimensions need trained networks: compute them
    with the vbench package in a separate environment, e.g. VBENCH_CACHE_DIR=WEIGHTS vbench evaluate --videos_path CLIPS
    --mode custom_input --dimension motion_smoothness. A dimension that neither provides is listed as absent. Quality,
    Semantic and Total (of VBench-2.0 its five categories and Total) appear when all their dimensions are there. A video that
    cannot be read is named; there is no score then, and the exit code is 2.
    """
    from components.evaluation import vbench as bench
    from components.stage import write_json

    benchmark = bench.VERSIONS[version]
    if not videos and not results:
        raise BadInput("reelign vbench", "give videos, --results, or both")
    found = bench.read_results(results or [], benchmark)
    if videos:
        if bench.FLICKERING not in benchmark.dimensions:
            raise BadInput("--version 2", f"{benchmark.name} has no dimension without weights: give --results alone")
        if bench.FLICKERING in found and found[bench.FLICKERING].n:
            raise BadInput(found[bench.FLICKERING].file, "has this dimension already: give no videos", key=bench.FLICKERING)
        from tqdm import tqdm

        clips = tqdm(bench.list_videos(videos), bench.FLICKERING, unit=" videos", disable=None)
        found[bench.FLICKERING], failed = bench.temporal_flickering(clips)
        for error in failed:
            print(f"error: {error}", file=sys.stderr)
        if failed:
            raise typer.Exit(2)
    summary = bench.summarise(benchmark, found)
    if out is not None:
        write_json(out, summary)
    print("\n".join(bench.as_lines(summary)))


@app.command()
def generate(
    context: typer.Context,
    prompt: Annotated[list[str], typer.Option(help="What to draw; give it several times for several clips.")],
    generator: Annotated[Path, typer.Option(help="A WanPipeline folder.")] = Path("models/base_generator"),
    lora: Annotated[Path | None, typer.Option(help="A LoRA: a folder, e.g. models/aligned/dpo, or a file.")] = None,
    guide: Annotated[
        list[str] | None,
        typer.Option(help="Flow-NRG weights, e.g. VQ=0.2,MQ=0.2,TA=0.6; once for all clips, or once for each --prompt."),
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Strength of the guidance.", show_default="params.yaml, nrg.scale", min=1e-6)
    ] = None,
    best_of: Annotated[
        int,
        typer.Option(min=1, help="Draw this many for each clip and keep the best, as params.yaml, best_of_n.judge ranks."),
    ] = 1,
    latent_reward: Annotated[Path, typer.Option(help="Model that guides, or ranks early.")] = Path("models/latent_reward"),
    video_reward: Annotated[Path, typer.Option(help="Model that ranks finished clips.")] = Path("models/video_reward"),
    seed: Annotated[int, typer.Option(help="Seed of the first clip; the next ones count up.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Clips a prompt.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the clips.")] = Path("generated"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace clips of the same names.")] = False,
) -> None:
    """Draw clips with a generator, an aligned adapter, reward guidance while sampling, or as the best of several. Sizes,
    steps and dtype: params.yaml. A JSON file beside each clip has its prompt, seed, settings and the digests of its models.
    """
    from dataclasses import asdict

    from components.generator.sampler import Job
    from components.guidance.solvers import Drawer
    from components.params import load_params
    from components.stage import folder_digest, write_json
    from components.video.encode import write_video

    params = load_params()
    if scale is not None and not guide:
        raise BadInput("--scale", "needs --guide, whose strength it sets")
    if guide and best_of > 1:
        raise BadInput("--best-of", "and --guide exclude each other")
    if guide and len(guide) not in (1, len(prompt)):
        raise BadInput("--guide", f"is given {len(guide)} times, --prompt {len(prompt)} times")
    weights = [parse_weights(text) for text in guide or []]
    guidance, reward = None, None
    if guide:
        check_dimensions(weights, latent_reward)
        guidance, reward = params.nrg.model_copy(update={} if scale is None else {"scale": scale}), latent_reward
    elif best_of > 1:
        guidance = params.best_of_n.model_copy(update={"n": best_of})
        reward = video_reward if guidance.judge == "video_reward" else latent_reward
    each = weights if len(weights) == len(prompt) else (weights or [None]) * len(prompt)
    jobs = [Job(f"{i:03d}_{seed + k}", text, seed + k, each[i]) for i, text in enumerate(prompt) for k in range(count)]
    context.with_resource(sole_writer(out))
    there = [file for job in jobs if (file := out / f"{job.clip}.mp4").exists()]
    if there and not overwrite:
        raise BadInput(there[0], "exists already; --overwrite replaces it, --seed and --out give other names")
    files = str(generator), lora and str(lora), params.base_generator.dtype
    parts, solver = Drawer(*files, guidance, reward and str(reward))()

    models = {name: folder for name, folder in {"generator": generator, "lora": lora, "reward": reward}.items() if folder}
    made = {name: {"path": str(path), "digest": folder_digest(path)} for name, path in models.items()}
    made |= {"dtype": params.base_generator.dtype, "sampling": params.sampling.model_dump()}
    made |= {"guidance": guidance and guidance.model_dump(exclude={"weights"} if guide else None)}  # --guide has its own
    for start in range(0, len(jobs), params.sampling.batch_size):
        batch = jobs[start : start + params.sampling.batch_size]
        clips = parts.decode(solver(parts, batch, params.sampling))
        for job, clip in zip(batch, clips, strict=True):
            write_video(out / f"{job.clip}.mp4", clip, params.sampling.fps)
            write_json(out / f"{job.clip}.json", made | asdict(job))
            print(f"{out / job.clip}.mp4  {job.prompt}")


def parse_weights(text: str) -> dict[str, float]:
    """ "VQ=0.2,TA=0.8" -> {"VQ": 0.2, "TA": 0.8}."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        try:
            weight = float(value) if name and equals else math.nan
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight):
            raise BadInput("--guide", f"'{part}' is not DIMENSION=WEIGHT")
        if name in weights:
            raise BadInput("--guide", f"has {name} twice")
        weights[name] = weight
    return weights


def check_dimensions(weights: list[dict[str, float]], latent_reward: Path) -> None:
    """BadInput where --guide has a dimension that the latent reward model does not score."""
    from components.guidance.facts import read_facts

    known = read_facts(latent_reward).dimensions
    for name in (name for own in weights for name in own if name not in known):
        raise BadInput("--guide", f"{latent_reward} scores {', '.join(known)}", key=name)


@app.command()
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


@app.command("export-kfp")
def export_kfp(
    out: Annotated[Path, typer.Option(help="The compiled pipeline, for Kubeflow's page or client.")] = Path("pipeline.yaml"),
) -> None:
    """Compile the graph for Kubeflow Pipelines, with stages, order, image and resources of Airflow (`make kfp`)."""
    from components.kubeflow import export

    export(out)
    print(f"{out} written")


@app.command()
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


@app.command()
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


def main() -> None:
    keep_freed_memory()
    with exit_codes():
        app()


if __name__ == "__main__":
    main()
