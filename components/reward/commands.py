"""`reelign score`, `bench-reward` and `check-reward`: scores, what a reward model is worth, and whether it keeps its
contract."""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from components.errors import BadInput
from components.files import partial_folder, put_in_place
from components.locks import sole_writer

if TYPE_CHECKING:
    from components.reward.layouts import Labelled
    from components.reward.model_files import ModelFiles
    from components.reward.scores import Score, Unscored


def score(
    context: typer.Context,
    videos: Annotated[list[Path] | None, typer.Argument(help="Video files, all scored for the same --prompt.")] = None,
    prompt: Annotated[str | None, typer.Option(help="The prompt that the videos were made for.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Or: a CSV with the columns path and prompt.")] = None,
    model: Annotated[
        Path, typer.Option(help="Folder of a trained VideoReward, ours or in the published layout (model_config.json).")
    ] = Path("models/video_reward"),
    template: Annotated[Path | None, typer.Option(help="Prompt template of a model in the published layout.")] = None,
    step: Annotated[int, typer.Option(help="checkpoint-STEP of the published layout; -1 is the latest.")] = -1,
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
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write a table with a row a video: .parquet or .csv.")] = None,
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
    from components.tables import text_of

    if out is not None and out.suffix not in (".parquet", ".csv"):
        raise BadInput(out, "the name of a table ends in .parquet or .csv")
    items = read_items(videos or [], prompt, csv)
    if triton is not None and (engine, workers) != ("local", 1):
        raise BadInput("reelign score", "--triton scores on the server: no --engine or --workers with it")
    if out is not None:
        context.with_resource(sole_writer(out))
    if triton is None:
        from tqdm import tqdm

        from components.reward.model_files import ModelFiles
        from components.reward.score_files import score_files, state_folder

        files = ModelFiles(str(model), template and str(template), step)
        passing = Path(context.with_resource(tempfile.TemporaryDirectory()))
        scores = score_files(
            items, files, engine, workers, chunk, state_folder(out, items, files, chunk) if out else passing,
            lambda videos, what, total: tqdm(videos, what, total, unit=" videos", disable=None),
        )  # fmt: skip
    else:
        from components.serving.client import score_remote

        plan = local_plan(model) if same_plan else None
        scores = score_remote(triton, items, send=send, in_flight=in_flight, plan=plan)
    if out is not None:
        from components.reward.score_files import write_scores

        write_scores(out, items, scores)
        shutil.rmtree(partial_folder(out), ignore_errors=True)  # with --triton there is none
    failed = set()
    for (path, text), result in zip(items, scores, strict=True):
        if hasattr(result, "reason"):
            failed.add(type(result).__name__)
            print(f"error: {path}: {result.reason.removeprefix(f'{path}: ')}", file=sys.stderr)
        elif as_json:
            known = {"normalised": result.normalised, "raw": result.raw, "Overall": result.overall}
            origin = {"model_version": result.model_version, "frame_plan": result.frame_plan}
            print(json.dumps({"path": str(path), "prompt": text, **known, **origin}))
        else:
            cells = [f"{name} {value:+.3f}" for name, value in result.normalised.items()]
            print(f"{text_of(path)}  {'  '.join(cells)}  Overall {result.overall:+.3f}  (model {result.model_version})")
    if failed:
        raise typer.Exit(4 if "Unanswered" in failed else 2)


def local_plan(model: Path) -> str:
    """The frame plan of a model folder, as scores are stamped with it."""
    from components.reward.facts import plan_of

    return str(plan_of(model))


def read_items(videos: list[Path], prompt: str | None, csv: Path | None) -> list[tuple[Path, str]]:
    """(video, prompt) of the command line or of the CSV."""
    if csv is not None:
        from components.reward.score_files import read_list

        return read_list(csv)
    if not videos or not (prompt or "").strip():
        raise BadInput("reelign score", "give video files and --prompt, or --csv")
    return [(video, prompt) for video in videos]


def bench_reward(
    context: typer.Context,
    csv: Annotated[
        Path,
        typer.Argument(
            help="Pairs: VideoGen-RewardBench, GenAI-Bench, path_A, path_B, prompt, label (A, B, same), or chosen,"
            " rejected, prompt."
        ),
    ],
    videos: Annotated[
        Path | None, typer.Option(help="Folder that the CSV's paths are relative to; not needed with --scores.")
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            help="Score that answers the one label: VQ, MQ, TA or Overall; without it TA for GenAI-Bench, else Overall."
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="Table of `reelign score --out`, or scores.parquet of an earlier run: nothing is scored then."),
    ] = None,
    model: Annotated[Path, typer.Option(help="Folder of a VideoReward.")] = Path("models/video_reward"),
    template: Annotated[Path | None, typer.Option(help="Prompt template of a model in the published layout.")] = None,
    step: Annotated[int, typer.Option(help="checkpoint-STEP of the published layout; -1 is the latest.")] = -1,
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
) -> None:
    """Measure a reward model against people's labels: accuracy with and without ties, by dimension and generator.

    The header selects the layout; figures.json and the first lines name the protocol of the figures. A video that is missing
    or cannot be scored ends the run: a benchmark over fewer pairs is another benchmark.
    """
    from components.reward import benchmark
    from components.reward.figures import summary
    from components.reward.layouts import read_benchmark
    from components.reward.model_files import ModelFiles
    from components.reward.scored import Scored, find_scores, read_scores
    from components.stage import write_json

    context.with_resource(sole_writer(out))
    files = ModelFiles(str(model), template and str(template), step)
    if scores is not None:
        if (engine, workers) != ("local", 1):
            raise BadInput("reelign bench-reward", "--scores has all scores: no --engine or --workers with it")
        known = read_scores(scores)
        pairs = read_benchmark(csv, list(known.values), answer, videos)
        found = find_scores(pairs, scores, known, videos)
    else:
        if videos is None:
            raise BadInput("reelign bench-reward", "give --videos, or --scores")
        dimensions = files.facts()["dimensions"]
        pairs = read_benchmark(csv, dimensions, answer, videos)
        benchmark.check_videos(pairs, videos)
        context.with_resource(sole_writer(out / "scores.parquet"))  # which `reelign score --out` may write as well
        results = score_pairs(pairs, videos, files, engine, workers, chunk, out / "scores.parquet")
        found = Scored.of(pairs.items(), results, dimensions)
    table, result = benchmark.evaluate(pairs, found, files, threshold_from, rounds)
    questions = list(pairs.score_of)
    partial = partial_folder(out / "figures.json")
    partial.mkdir(parents=True, exist_ok=True)
    write_json(partial / "figures.json", result)
    table.to_csv(partial / "pairs.csv", index=False)
    benchmark.draw(table, result, questions, partial)
    made = [out / file.name for file in sorted(partial.iterdir())]
    for file in made:
        put_in_place(partial / file.name, file)
    for done in (partial, partial_folder(out / "scores.parquet")):
        shutil.rmtree(done, ignore_errors=True)
    for line in benchmark.as_lines(result["protocol"], len(table)):
        print(line)
    for question in questions:
        print(f"{question}: {summary(result['dimensions'][question], result['baselines'][question])}")
    print(", ".join(map(str, [*made, scores or out / "scores.parquet"])))


def score_pairs(
    pairs: "Labelled", videos: Path, files: "ModelFiles", engine: str, workers: int, chunk: int, out: Path
) -> list["Score | Unscored"]:
    """A score or a reason for each of the pairs' videos, in the order of their items; the table `out` of them."""
    from tqdm import tqdm

    from components.reward.score_files import score_files, state_folder, write_scores

    items = [(videos / path, prompt) for path, prompt in pairs.items()]
    results = score_files(
        items, files, engine, workers, chunk, state_folder(out, items, files, chunk),
        lambda items, what, total: tqdm(items, what, total, unit=" videos", disable=None),
    )  # fmt: skip
    write_scores(out, pairs.items(), results)
    return results


def check_reward_model(
    model: Annotated[Path, typer.Argument(help="Folder of a VideoReward, ours or in the published layout.")],
    videos: Annotated[list[Path], typer.Argument(help="Video files to try it on; several show more.")],
    prompt: Annotated[str, typer.Option(help="The prompt that the videos were made for.")],
    template: Annotated[Path | None, typer.Option(help="Prompt template of a model in the published layout.")] = None,
) -> None:
    """Check the contract of a reward model, and show how its scores react to spoiled videos.

    Same input, same score, in any batch and order; VQ and MQ do not depend on the prompt; no score for what is no video.
    Exit code 1 where one of these is broken. Reactions are changes of normalised scores, for you to judge.
    """
    from components.reward.check import as_lines, check_reward, load_items
    from components.reward.score import RewardModel

    loaded = RewardModel.load(model, template=template)
    findings = check_reward(loaded, load_items(videos, prompt, loaded))
    print("\n".join(as_lines(findings)))
    if any(finding.holds is False for finding in findings):
        raise typer.Exit(1)
