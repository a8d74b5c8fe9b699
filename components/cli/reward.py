"""`reelign score`, `bench-reward` and `check-reward`: scores, what a reward model is worth, and whether it keeps its
contract."""

import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from components.cli.labels import Margin, OwnColumns, OwnLabels
from components.cli.output import AsJson, print_json, shown
from components.contracts import VIDEO_REWARD
from components.errors import BadInput
from components.files.atomic import partial_folder
from components.files.locks import sole_writer

if TYPE_CHECKING:
    from components.reward.scores import Score, Unscored


def score(
    context: typer.Context,
    videos: Annotated[list[Path] | None, typer.Argument(help="Video files, all scored for the same --prompt.")] = None,
    prompt: Annotated[str | None, typer.Option(help="The prompt that the videos were made for.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Or: a CSV with the columns path and prompt.")] = None,
    model: Annotated[
        Path, typer.Option(help="Folder of a trained VideoReward, ours or in the published layout (model_config.json).")
    ] = Path(VIDEO_REWARD),
    template: Annotated[Path | None, typer.Option(help="Prompt template of a model in the published layout.")] = None,
    step: Annotated[int, typer.Option(help="checkpoint-STEP of the published layout; -1 is the latest.")] = -1,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Dtype of the model's weights; default: its own.")
    ] = None,
    triton: Annotated[
        str | None,
        typer.Option(help="Score on a Triton server instead: http://127.0.0.1:8000, or grpc:// and its other port."),
    ] = None,
    send: Annotated[
        Literal["file", "frames"], typer.Option(help="What goes to Triton: the files' bytes, or frames decoded here.")
    ] = "file",
    in_flight: Annotated[int, typer.Option(min=1, help="Videos under way to Triton at a time.")] = 8,
    same_plan: Annotated[
        bool, typer.Option("--same-plan", help="Refuse a Triton whose frame plan is not that of --model here.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line instead of a table; also with --out.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write a table with a row a video, .parquet or .csv, and print a summary.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Processes of this machine, or Ray Data (on RAY_ADDRESS, if set)."),
    ] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Processes that score, each with a model of its own.")] = 1,
    chunk: Annotated[
        int, typer.Option(min=1, help="Videos in a chunk; a killed run with --out continues at the next one.")
    ] = 64,
) -> None:
    """Score videos with VideoReward: visual quality, motion quality, text alignment.

    Scores are normalised (0 is the mean of the model's validation set, 1 a standard deviation); Overall is their sum.
    A video that cannot be scored is named with the reason and gets no score. The exit code is then 2, or 4 where no server
    answered.
    """
    if out is not None and out.suffix not in (".parquet", ".csv"):
        raise BadInput(out, "a table's name must end in .parquet or .csv")
    if csv is not None and out is not None and out.resolve() == csv.resolve():
        raise BadInput(out, "is the list of --csv: the scores need another file", key="--out")
    items = read_items(videos or [], prompt, csv)
    if triton is not None and (engine, workers, dtype) != ("local", 1, None):
        raise BadInput("reelign score", "--triton scores on the server: no --engine, --workers or --dtype with it")
    if out is not None:
        context.with_resource(sole_writer(out))
    if triton is None:
        from components.reward.model_files import ModelFiles
        from components.reward.score_files import Workers, score_to

        files = ModelFiles(str(model), template and str(template), step, dtype)
        scores = score_to(out, items, files, Workers(engine, workers, chunk), videos_bar)
    else:
        from components.serving.client import score_remote

        plan = local_plan(model) if same_plan else None
        scores = score_remote(triton, items, send=send, in_flight=in_flight, plan=plan)
    if out is not None:
        from components.reward.score_files import write_scores

        write_scores(out, items, scores)
        shutil.rmtree(partial_folder(out), ignore_errors=True)  # with --triton there is none
    failed, each = {type(result).__name__ for result in scores if hasattr(result, "reason")}, out is None or as_json
    for (path, text), result in zip(items, scores, strict=True):
        if each or hasattr(result, "reason"):
            show(path, text, result, as_json)
    if not each:
        print(f"{out}: {sum(hasattr(score, 'raw') for score in scores)} of {len(scores)} videos scored")
    if failed:
        raise typer.Exit(4 if "Unanswered" in failed else 2)


def videos_bar(videos: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(videos, what, total, unit=" videos", disable=None)


def show(path: Path, prompt: str, result: "Score | Unscored", as_json: bool) -> None:
    """Print a line: scores, or why there are none."""
    from components.reward.scores import Unscored

    if isinstance(result, Unscored):
        print(f"error: {path}: {result.reason.removeprefix(f'{path}: ')}", file=sys.stderr)
    elif as_json:
        known = {"normalised": result.normalised, "raw": result.raw, "Overall": result.overall}
        origin = {"model_version": result.model_version, "frame_plan": result.frame_plan}
        print(json.dumps({"path": str(path), "prompt": prompt, **known, **origin}))
    else:
        cells = [f"{name} {value:+.3f}" for name, value in result.normalised.items()]
        print(f"{shown(path)}  {'  '.join(cells)}  Overall {result.overall:+.3f}  (model {result.model_version})")


def local_plan(model: Path) -> str:
    """The frame plan of a model folder, as scores are stamped with it."""
    from components.reward.card import plan_of

    return str(plan_of(model))


def read_items(videos: list[Path], prompt: str | None, csv: Path | None) -> list[tuple[Path, str]]:
    """(video, prompt) of the command line or of the CSV."""
    if csv is not None and not videos and prompt is None:
        from components.reward.score_list import read_list

        return read_list(csv)
    if csv is not None or not videos or prompt is None or not prompt.strip():
        raise BadInput("reelign score", "give video files and --prompt, or --csv")
    return [(video, prompt) for video in videos]


def bench_reward(
    context: typer.Context,
    csv: Annotated[
        Path,
        typer.Argument(
            help="Pairs: VideoGen-RewardBench, GenAI-Bench, REACT-Video, path_A, path_B, prompt, label (A, B, same), or"
            " chosen, rejected, prompt. Or ratings of clips: path, prompt, and VQ, MQ, TA, Overall, or rating."
        ),
    ],
    videos: Annotated[
        Path | None, typer.Option(help="Folder that the CSV's paths are relative to; not needed with --scores.")
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            help="Score to compare with the one label: VQ, MQ, TA or Overall; by default TA for GenAI-Bench, else Overall."
        ),
    ] = None,
    columns: OwnColumns = None,
    labels: OwnLabels = None,
    rating_margin: Margin = 0.0,
    scores: Annotated[
        Path | None,
        typer.Option(help="Table of `reelign score --out`, or scores.parquet of an earlier run: nothing is scored then."),
    ] = None,
    model: Annotated[Path, typer.Option(help="Folder of a VideoReward.")] = Path(VIDEO_REWARD),
    template: Annotated[Path | None, typer.Option(help="Prompt template of a model in the published layout.")] = None,
    step: Annotated[int, typer.Option(help="checkpoint-STEP of the published layout; -1 is the latest.")] = -1,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Dtype of the model's weights; default: its own.")
    ] = None,
    threshold_from: Annotated[
        Literal["validation", "test"],
        typer.Option(help="Tie threshold: the model's own, from validation pairs, or fitted here as leaderboards do."),
    ] = "validation",
    rounds: Annotated[int, typer.Option(min=1, help="Bootstrap rounds of the intervals.")] = 1000,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Processes of this machine, or Ray Data (on RAY_ADDRESS, if set)."),
    ] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Processes that score, each with a model of its own.")] = 1,
    chunk: Annotated[int, typer.Option(min=1, help="Videos in a chunk; a killed run continues at the next one.")] = 64,
    out: Annotated[Path, typer.Option(help="Folder for figures, pairs, pictures and scores.")] = Path("reward_benchmark"),
    as_json: AsJson = False,
) -> None:
    """Measure a reward model against people's labels: accuracy with and without ties, by dimension and generator.

    The header selects the layout; figures.json and the first lines name the protocol of the figures. Of ratings it also
    prints Spearman's, Kendall's and Pearson's correlation with the scores, across and within prompts, and accuracies over
    the pairs that they decide. Other names and words of a file are mapped:
    --columns path_A=left,path_B=right,prompt=caption,label=vote --labels left=A,right=B,tie=same.
    A video that is missing or cannot be scored ends the run: a benchmark over fewer pairs is another benchmark.
    """
    from components.preferences.columns import read_mapped
    from components.reward import benchmark
    from components.reward.metrics import summary
    from components.reward.model_files import ModelFiles

    context.with_resource(sole_writer(out))
    people = benchmark.Labels(csv, answer, read_mapped(columns, labels), rating_margin)
    files, table_of_scores = (
        ModelFiles(str(model), template and str(template), step, dtype),
        scores or out / "scores.parquet",
    )
    if scores is not None:
        if (engine, workers, dtype) != ("local", 1, None):
            raise BadInput("reelign bench-reward", "--scores has all scores: no --engine, --workers or --dtype with it")
        pairs, found = benchmark.find_known(people, scores, videos)
    else:
        if videos is None:
            raise BadInput("reelign bench-reward", "give --videos, or --scores")
        from components.reward.score_files import Workers

        split = Workers(engine, workers, chunk)
        pairs, found = benchmark.score_pairs(people, videos, files, split, table_of_scores, videos_bar)
    table, result = benchmark.evaluate(pairs, found, files, threshold_from, rounds)
    made = [*benchmark.write_benchmark(out, table, result), table_of_scores]
    correlations = result.get("correlations", {})
    if as_json:
        print_json({"pairs": len(table), **result, "files": list(map(str, made))})
        return
    for line in (*benchmark.as_lines(result["protocol"], len(table)), *benchmark.correlation_lines(correlations)):
        print(line)
    for question in pairs.score_of:
        print(f"{question}: {summary(result['dimensions'][question], result['baselines'][question])}")
    print(", ".join(map(str, made)))


def check_reward_model(
    model: Annotated[Path, typer.Argument(help="Folder of a VideoReward, ours or in the published layout.")],
    videos: Annotated[list[Path], typer.Argument(help="Video files to try it on; several show more.")],
    prompt: Annotated[str, typer.Option(help="The prompt that the videos were made for.")],
    template: Annotated[Path | None, typer.Option(help="Prompt template of a model in the published layout.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option(help="Dtype of the model's weights; default: its own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the contract of a reward model, and show how its scores react to spoiled videos.

    Same input, same score, in any batch and order; VQ and MQ do not depend on the prompt; no score for what is no video.
    Exit code 1 where one of these is broken. Reactions are changes of normalised scores, for you to judge.
    """
    from components.reward.check import as_lines, check_reward, load_items
    from components.reward.score import RewardModel

    loaded = RewardModel.load(model, template=template, dtype=dtype)
    findings = check_reward(loaded, load_items(videos, prompt, loaded), videos)
    if as_json:
        print_json({"model_version": loaded.version, "findings": list(map(asdict, findings))})
    else:
        print("\n".join(as_lines(findings)))
    if any(finding.holds is False for finding in findings):
        raise typer.Exit(1)


def export_reward(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="Folder of a VideoReward trained here.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not be there.")],
    layout: Annotated[
        Literal["videoalign", "mlflow"],
        typer.Option(help="videoalign: model_config.json and checkpoint-N/model.pth; mlflow: a pyfunc model with its code."),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            help="Base model that the export names, a hub id or a folder; it must be here.", show_default="the model's"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a reward model for other programs: in the layout of the published VideoReward, or as an MLflow model.

    What the published layout cannot hold is refused with the reason: other dimensions than VQ, MQ, TA, other read-outs,
    positions, backbones and frame sizes. Tie thresholds have no place in it.
    """
    context.with_resource(sole_writer(out))
    if layout == "mlflow":
        from components.reward.export_mlflow import export_mlflow

        if base is not None:
            raise BadInput("reelign export-reward", "an MLflow model names no base model", key="--base")
        files = list(map(str, export_mlflow(model, out)))
        if as_json:
            print_json({"layout": layout, "files": files})
        else:
            print(", ".join(files))
        return
    from components.reward.export import export_videoalign

    made = export_videoalign(model, out, base)
    own = made.template_type == made.files[1].name
    if as_json:
        files = list(map(str, made.files))
        print_json({"layout": layout, "base": made.base, "template_type": made.template_type, "files": files})
        return
    print(", ".join(map(str, made.files)))
    print(f"base model {made.base}; template {made.template_type}")
    if own:
        print(f"Readers have no such template and refuse it: give them the text of {made.files[1]}.")
