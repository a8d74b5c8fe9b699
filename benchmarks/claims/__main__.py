"""python -m benchmarks.claims run | show | power: see the package's docstring."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

import benchmarks.claims
from benchmarks.cells import key_of
from benchmarks.claims import looks, page, results
from benchmarks.claims.design import FIRST_SEED, Claim
from benchmarks.claims.index import CLAIMS, ORDER
from benchmarks.claims.reasons import REASONS
from benchmarks.claims.world import World
from components.errors import BadInput
from components.files.atomic import atomic_write
from components.pipeline.stage import folder_digest

MODELS = ("models/base_generator", "models/video_reward", "models/latent_reward", "data/alignment_pairs.parquet")

TABLES = ("data/sample_scores.parquet", "data/tradeoff.parquet")

app = typer.Typer(help=benchmarks.claims.__doc__, add_completion=False, pretty_exceptions_enable=False)
Demo = Annotated[Path, typer.Option(help="Checkout in which `make demo` was run.")]


@app.command()
def run(
    claim: Annotated[int, typer.Option(help="A single one; 0 is all, in order of cost.")] = 0,
    seeds: Annotated[int, typer.Option(min=2, help="Of training and noise.")] = 3,
    demo: Demo = Path(),
) -> None:
    """Whatever is not in its cell yet; figures of a finished claim go on record."""
    world = World(demo)
    need_demo(demo)
    for number in chosen(claim):
        finish(CLAIMS[number], world, seeds)


@app.command()
def show() -> None:
    """Write both pages from the figures on record."""
    found = {number: result for number, one in CLAIMS.items() if (result := results.read(one))}
    parts = page.sections(CLAIMS, found, REASONS, results.read_looks())
    head = (Path(__file__).parent / "introduction.md").read_text().rstrip()
    atomic_write(page.MARKDOWN, page.markdown(parts, CLAIMS, found, head))
    atomic_write(page.HTML, page.html(parts))
    print(f"{page.MARKDOWN} and {page.HTML}: {len(found)} of {len(CLAIMS)} claims")


@app.command()
def look(demo: Demo = Path()) -> None:
    """Put on record what the demo's own finished clips show of some claims: seconds, one training, no verdict."""
    need_demo(demo, TABLES)
    results.write_looks(looks.looks(demo), key_of([folder_digest(demo / name) for name in TABLES]))
    for number, found in results.read_looks().items():
        for name, one in found.items():
            print(f"{number:2} {name}: {page.interval_text(one)}")


@app.command()
def power(seeds: Annotated[int, typer.Option(min=2)] = 3) -> None:
    """Print the smallest effect that each part of a claim finds with 80% probability."""
    for number, claim in CLAIMS.items():
        found = results.read(claim)
        for part in claim.parts:
            text = page.size_text(part, results.findable(claim, part, found, seeds, len(CLAIMS)))
            print(f"{number:2} {part.name}: {text}, {'measured' if found else 'assumed'} deviations")


def chosen(claim: int) -> tuple[int, ...]:
    if claim and claim not in CLAIMS:
        raise typer.BadParameter(f"no claim {claim}; there are 1 to {len(CLAIMS)}")
    return (claim,) if claim else ORDER


def need_demo(demo: Path, names: Iterable[str] = MODELS) -> None:
    for name in names:
        if not (demo / name).exists():
            raise BadInput(demo / name, "missing; `make demo` makes it")


def finish(claim: Claim, world: World, count: int) -> None:
    """Measure all seeds of a claim and put its figures on record."""
    began, measured = time.perf_counter(), []
    seeds = list(range(FIRST_SEED, FIRST_SEED + count))
    for seed in seeds:
        measured.append(claim.measure(world, seed))
        print(f"claim {claim.number}, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    demo = key_of([folder_digest(world.demo / name) for name in MODELS])
    result = results.record(claim, seeds, measured, demo)
    results.write(claim, result)
    for name, effect in result.effects.items():
        print(f"  {name}: {page.effect_text(effect)}", flush=True)


if __name__ == "__main__":
    app()
