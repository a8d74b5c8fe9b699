"""benchmarks/evaluation.py and load.py with little in them: what they call changes, and they are seldom run."""

import runpy

import pytest

from tests.conftest import REPOSITORY


def test_the_benchmark_runs_to_its_end(capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    benchmark = runpy.run_path("benchmarks/evaluation.py")
    main = benchmark["main"]
    main.__globals__.update(PROMPTS=4, BENCHMARK_PAIRS=200, BENCHMARK_PROMPTS=20)
    main()
    printed = capsys.readouterr().out
    assert "200 pairs, 4 dimensions" in printed
    assert "24 clips" in printed and "index.html" in printed


@pytest.mark.parametrize(
    ("name", "count", "said"),
    [
        ("pairs", 20, "scores.parquet"),
        ("prompts", 40, "'train': "),
        ("clips", 12, "[curate] done in"),
        ("status", 9, "up to date"),
    ],
)
def test_large_inputs_may_be_small(capsys, monkeypatch, name, count, said):
    monkeypatch.chdir(REPOSITORY)
    runpy.run_path("benchmarks/load.py")[name](count)
    first, second = capsys.readouterr().out.splitlines()
    assert f"{count} {name if name != 'status' else 'files'}" in first and "of the processor" in first and said in second
