"""Ten claims of the paper and three of ours, tested again by a judge that nothing was trained on.

    make demo                                       first, here or in another checkout (--demo)
    python -m benchmarks.claims run                 a night on two cores; a restart resumes
    python -m benchmarks.claims run --claim 7       one of them
    python -m benchmarks.claims show                docs/explanation/claims.md and docs/assets/claims.html
    python -m benchmarks.claims look                seconds: what the demo's own finished clips show, without verdicts
    python -m benchmarks.claims power               the smallest effect that each design can find

A file a claim holds hypothesis, what would refute it, design and test; they were committed before any clip of a test prompt
was drawn here. statistics.py has intervals, corrections and verdicts.
"""
