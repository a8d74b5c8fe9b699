"""`reelign study`: people compare two methods' samples. Heavy libraries are imported by the commands that need them.

export -> annotate serve, push -> (people compare) -> annotate pull -> read
"""

from pathlib import Path
from typing import Annotated

import typer

from components.cli.output import AsJson, print_json
from components.errors import BadInput

app = typer.Typer(help="Have people compare two methods' samples blind, and read them as a judge.", no_args_is_help=True)


@app.command()
def export(
    method_a: Annotated[str, typer.Argument(help="A folder of data/samples, e.g. dpo.")],
    method_b: Annotated[str, typer.Argument(help="Another one, e.g. base: METHOD_A's win rate is over this one.")],
    out: Annotated[Path, typer.Option(help="Folder to make, for `reelign annotate serve`, `push` and `pull`.")],
    prompts: Annotated[int | None, typer.Option(min=2, help="How many prompts, with all seeds; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the prompts. Names and sides are drawn by a secret one.")] = 0,
    base_url: Annotated[str | None, typer.Option(help="Where OUT/media/videos will be; default: on Label Studio.")] = None,
) -> None:
    """Make blind pairs of two methods' samples of the same prompt and seed: which is better in VQ, MQ, TA and Overall?

    A study is drawn once and not extended. Only OUT/media may be shown to anybody.
    """
    from components.annotation.human_study import export_study

    study = export_study((method_a, method_b), out, prompts, seed, base_url)
    drawn = len({pair.prompt_id for pair in study.pairs})
    print(f"{out / 'tasks.json'}: {len(study.pairs)} pairs of {drawn} prompts, {method_a} and {method_b}")
    if study.identical:
        print(f"left out: {study.identical} pairs with two identical files; {study.prompts} prompts were drawn")


@app.command()
def read(
    labels: Annotated[Path, typer.Argument(help="Label Studio's JSON export, as `reelign annotate pull` writes it.")],
    folder: Annotated[Path, typer.Option(help="The folder of `study export`: its key un-blinds.")],
    out: Annotated[
        Path | None, typer.Option(help="JSON file for the figures and verdicts, which judge human:FILE reads.")
    ] = None,
    reviewer: Annotated[list[str] | None, typer.Option(help="Mail address or number of an annotator to leave out.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where a pair has no answer.")] = False,
    as_json: AsJson = False,
) -> None:
    """Win rates of METHOD_A over METHOD_B by people, and how often VideoReward and the gold judge agree with them.

    A tie counts one half, several annotators' answers to a pair are averaged, intervals are 95% over prompts. Judges are
    those of data/sample_scores.parquet, where it is of the clips that were shown.
    """
    from components.annotation.human_study import as_lines, judge_scores, read_answers, read_study, study_metrics, verdicts
    from components.config.params import load_params
    from components.pipeline.stage import write_json

    study = read_study(folder)
    answered, left_out = read_answers(study, labels, folder, reviewer or [])
    silent = len(study.pairs) - len(answered)
    if silent and strict:
        raise BadInput(labels, f"{silent} of {len(study.pairs)} pairs have no answer")
    scores, why = judge_scores(study, answered)
    found = study_metrics(study, answered, scores, load_params().evaluate.tie_width)
    found |= {"left_out": +left_out, "judges_absent": why}
    if out is not None:
        write_json(out, found | {"verdicts": verdicts(answered)})
    if as_json:
        print_json(found | {"without_answer": silent, "identical": study.identical})
        return
    print("\n".join(as_lines(found)))
    if silent:
        print(f"{silent} pairs have no answer: the figures are of the other {len(answered)}")
    if study.identical:
        print(f"{study.identical} pairs with two identical files were not shown and are not counted")
    if why:
        print(f"no judge beside people: {why}")
    for what, count in (+left_out).items():
        print(f"left out: {count} {what}")
    if out is not None:
        print(out)
