"""benchmarks/evaluation.py with little in it: what it calls changes, and it is seldom run."""

import runpy

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
