"""`reelign ablation`: a comparison of reward-model experiments, as in Tab. 6 of the paper for losses and read-outs.

    dvc exp run --queue -S reward.loss=bt,btt,regression reward_bench && dvc exp run --run-all
    reelign ablation

Rows are DVC experiments of this commit, all measured on the same data. Columns are the params that differ and the agreement
with people on test pairs.
Differences between rows are not tested: on the same pairs, intervals overlap even where the models differ.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from components.contracts import REWARD_METRICS
from components.errors import BadInput
from components.evaluation.style import style_sheet
from components.files.atomic import atomic_write
from components.statistics.intervals import as_text

KINDS = {"accuracy_without_ties": "without ties", "accuracy_with_ties": "with ties"}


@dataclass(frozen=True)
class Variant:
    """An experiment: name, all params by dotted key, the content of its metrics/reward_bench.json, and the digests of the
    data that it was measured on, by path."""

    name: str
    params: dict[str, Any]
    bench: dict[str, Any]
    data: dict[str, str]


def read_variants() -> list[Variant]:
    """Finished experiments of the current commit; BadInput when there are none, and where two were measured on other pairs
    or videos: their figures cannot be compared."""
    import dvc.api
    from dvc.exceptions import DvcException

    variants = []
    for row in dvc.api.exp_show():
        if row["Experiment"] is None or row["State"] not in (None, "Success"):  # None: run in the workspace
            continue
        try:
            bench = json.loads(dvc.api.read(str(REWARD_METRICS), rev=row["Experiment"]))  # metrics_show leaves out lists
            params = dvc.api.params_show("params.yaml", rev=row["Experiment"])
            lock = yaml.load(dvc.api.read("dvc.lock", rev=row["Experiment"]), yaml.CSafeLoader)
        except DvcException as error:
            raise BadInput(REWARD_METRICS, f"experiment {row['Experiment']}: {str(error).splitlines()[0]}") from error
        variants.append(Variant(row["Experiment"], flat(params), bench, measured_on(lock)))
    if not variants:
        raise BadInput("dvc.lock", "no finished experiments of this commit; `dvc exp run --queue -S KEY=A,B reward_bench`")
    for variant in variants:
        for path in sorted(variant.data.keys() | variants[0].data.keys()):
            if variant.data.get(path) != variants[0].data.get(path):
                why = f"{path} is another one than in {variants[0].name}: `dvc exp remove` one of the two"
                raise BadInput(f"experiment {variant.name}", why)
    return variants


def measured_on(lock: dict[str, Any]) -> dict[str, str]:
    """Digests of what stage reward_bench read below data/, by path, from a dvc.lock."""
    deps = lock["stages"]["reward_bench"]["deps"]
    return {dep["path"]: dep["md5"] for dep in deps if dep["path"].startswith("data/")}


def flat(params: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in params.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def as_rows(variants: list[Variant]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: params that differ, then each dimension's accuracies with 95% intervals, best Overall first."""
    keys = sorted({key for variant in variants for key in variant.params})
    differ = [key for key in keys if len({json.dumps(variant.params.get(key)) for variant in variants}) > 1]
    dimensions = list(dict.fromkeys(name for variant in variants for name in variant.bench["dimensions"]))
    header = ["experiment", *differ, *(f"{name} {text}" for name in dimensions for text in KINDS.values())]
    rows = []
    for variant in sorted(variants, key=_overall, reverse=True):
        row = [variant.name, *(str(variant.params.get(key, "")) for key in differ)]
        for name in dimensions:
            for kind in KINDS:
                entry = variant.bench["dimensions"].get(name)
                row.append(as_text(entry[kind], between="({}–{})") if entry else "none")
        rows.append(row)
    return header, rows


def _overall(variant: Variant) -> float:
    return variant.bench["dimensions"]["Overall"]["accuracy_without_ties"]["value"] or 0.0


def write_page(out: Path, variants: list[Variant]) -> None:
    """Write the table as a self-contained HTML file."""
    header, rows = as_rows(variants)
    pairs = sorted({variant.bench["pairs"] for variant in variants})
    here = Path(__file__).parent
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(here), autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template("ablation.html.j2").render(css=style_sheet(), header=header, rows=rows, pairs=pairs)
    atomic_write(out, page)
