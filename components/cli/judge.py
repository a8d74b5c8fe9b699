"""`reelign judge`: how far judges are to be trusted."""

from pathlib import Path
from typing import Annotated

import typer

from components.cli.labels import Margin, OwnColumns, OwnLabels
from components.cli.output import AsJson, print_json
from components.cli.reward import videos_bar
from components.files.locks import sole_writer

MOST_SHOWN = 5  # pairs without a verdict
app = typer.Typer(help="Measure judges against people's labels.", no_args_is_help=True)


@app.command(epilog="Example: reelign judge check vlm:my-vlm pairs.csv --videos DIR")
def check(
    context: typer.Context,
    judge: Annotated[
        str, typer.Argument(help="KIND:ARGUMENT as in evaluate.judges, e.g. vlm:my-vlm for judges/my-vlm.yaml.")
    ],
    pairs: Annotated[Path, typer.Argument(help="People's labels, in any layout that bench-reward reads.")],
    videos: Annotated[Path, typer.Option(help="Folder that the CSV's paths are relative to.")],
    answer: Annotated[
        str | None, typer.Option(help="Dimension that answers a single label; without it Overall, also for GenAI-Bench.")
    ] = None,
    columns: OwnColumns = None,
    labels: OwnLabels = None,
    rating_margin: Margin = 0.0,
    repeat_pairs: Annotated[
        int, typer.Option(min=0, help="How many pairs are judged a second time, for self-consistency; 0 none.")
    ] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Bootstrap rounds of the intervals.")] = 1000,
    out: Annotated[
        Path | None, typer.Option(help="The card to write.", show_default="judges/KEY.card.json, where the gate looks")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a judge against people's labels, and write its card, which the gate demands.

    The card has accuracy with and without ties, position bias, self-consistency, and biases of length and brightness. A pair
    without a verdict is counted and has no part in accuracies. Answers of a vision-language model are on record: a killed
    check continues, and a second one sends nothing.
    """
    from components.contracts import DIMENSIONS
    from components.judges.card import card_file, write_card
    from components.judges.check import Settings, as_lines, check_judge, failures
    from components.judges.judges import load_judge
    from components.judges.protocol import Context
    from components.judges.vlm import Vlm
    from components.preferences.columns import read_mapped
    from components.reward.benchmark import check_videos
    from components.reward.layouts import read_benchmark
    from components.reward.scores import OVERALL
    from components.video.limits import LIMITS

    mapped = read_mapped(columns, labels)
    loaded = load_judge(judge, Context(progress=videos_bar), where="reelign judge check", key=None)
    card_place = out or card_file(loaded.facts.key)
    context.with_resource(sole_writer(card_place))
    people = read_benchmark(pairs, list(DIMENSIONS), answer, videos, mapped, rating_margin, usual=OVERALL)
    check_videos(people, videos)
    card, leads = check_judge(loaded, people, videos, LIMITS, Settings(repeat_pairs, rounds))
    write_card(card_place, card)
    lacking = failures(people, leads)
    if as_json:
        spent = loaded.spent.as_json(loaded.settings) if isinstance(loaded, Vlm) else None
        found = {"card": card.model_dump(mode="json"), "file": str(card_place), "without_verdict": lacking, "spent": spent}
        print_json(found)
        return
    print("\n".join([*as_lines(card), *lacking[:MOST_SHOWN]]))
    if len(lacking) > MOST_SHOWN:
        print(f"... and {len(lacking) - MOST_SHOWN} more pairs without a verdict")
    print(card_place)
