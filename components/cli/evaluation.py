"""`reelign ablation` and `vbench`: variants of the reward model side by side, and VBench's table."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from components.errors import BadInput


def ablation(out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report/ablation.html")) -> None:
    """Compare DVC experiments of the reward model: what differs, and how often each agrees with people."""
    from components.evaluation.ablation import as_rows, read_variants, write_page

    variants = read_variants()
    write_page(out, variants)
    header, rows = as_rows(variants)
    for row in rows:
        print("  ".join(f"{name} {cell}" for name, cell in zip(header, row, strict=True)))
    print(out)


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
    from components.judges import vbench as bench
    from components.pipeline.stage import write_json

    benchmark = bench.VERSIONS[version]
    if not videos and not results:
        raise BadInput("reelign vbench", "give videos, --results, or both")
    found = bench.read_results(results or [], benchmark)
    if videos:
        if bench.FLICKERING not in benchmark.dimensions:
            raise BadInput("--version 2", f"{benchmark.name} has no dimension without weights: give --results alone")
        read = found.get(bench.FLICKERING)
        if read is not None and read.n:
            raise BadInput(read.file or "--results", "has this dimension already: give no videos", key=bench.FLICKERING)
        from tqdm import tqdm

        clips = tqdm(bench.list_videos(videos), bench.FLICKERING, unit=" videos", disable=None)
        own, failed = bench.temporal_flickering(clips)
        for error in failed:
            print(f"error: {error}", file=sys.stderr)
        if failed or own is None:
            raise typer.Exit(2)
        found[bench.FLICKERING] = own
    summary = bench.summarise(benchmark, found)
    if out is not None:
        write_json(out, summary)
    print("\n".join(bench.as_lines(summary)))
