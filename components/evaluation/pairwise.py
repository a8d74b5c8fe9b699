"""Methods against each other: the win rates `between` of metrics/alignment.json laid out as a matrix, row against column."""

from collections import Counter


def win_rate_matrix(between: dict, judge: str) -> tuple[list[str], list[tuple[str, list[dict | None]]]]:
    """Overall win rates by one judge.

    Returns:
        the columns' methods, and rows of a method with one cell per column: an estimate with `p` and `p_holm`, or None on
        and above the diagonal, which would repeat it. All empty for a single method.
    """
    # In a pair's key, the first method comes after the second in params. Metrics files are sorted by key.
    after = Counter(pair.split("/")[0] for pair in between)
    methods = sorted({name for pair in between for name in pair.split("/")}, key=lambda name: after[name])
    columns = methods[:-1]
    cells = {pair: found[judge]["Overall"] for pair, found in between.items() if judge in found}
    if not cells:
        return [], []
    return columns, [(row, [cells.get(f"{row}/{column}") for column in columns]) for row in methods[1:]]
