"""95% intervals of estimates: their condition, their format in metrics files, and their text.

The unit of resampling is the prompt. Over a few prompts a bootstrap interval covers far less than 95%, and over one it has
zero width. So an estimate over fewer than MIN_PROMPTS prompts has no interval, and is never significant.
"""

from collections.abc import Callable

MIN_PROMPTS = 5  # with fewer, even the exact sign-flip test has no p-value below 2 / 2^4


def as_json(value: float | None, low: float | None, high: float | None, n: int, prompts: int) -> dict:
    """An estimate in a metrics file: {"value", "ci95": [low, high], "n"}.

    Without an interval, `ci95` is null and `prompts` is the number of prompts. Without data the value is null too.
    """
    if value is None:
        return {"value": None, "ci95": None, "n": n}
    if low is None:
        return {"value": value, "ci95": None, "n": n, "prompts": prompts}
    return {"value": value, "ci95": [low, high], "n": n}


def as_scalars(found: dict) -> dict[str, float]:
    """An estimate for DVC's metrics, without lists: {"value", "low", "high"}, rounded to four decimals; unknown values are
    left out."""
    known = {"value": found["value"]} | dict(zip(("low", "high"), found["ci95"] or (), strict=False))
    return {key: round(number, 4) for key, number in known.items() if number is not None}


def is_above(found: dict, null: float) -> bool:
    """Whether the whole interval of an estimate (as_json) lies above `null`; False without an interval."""
    return found["ci95"] is not None and found["ci95"][0] > null


def is_below(found: dict, null: float) -> bool:
    """Whether the whole interval of an estimate (as_json) lies below `null`; False without an interval."""
    return found["ci95"] is not None and found["ci95"][1] < null


NOTE = f"(n=...): prompts too few for an interval, which takes {MIN_PROMPTS}"  # below tables with short()


def short(prompts: int) -> str:
    """In place of an interval in a table's cell."""
    return f"(n={counted(prompts, 'prompt')})"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 pair, 2 pairs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def too_few(prompts: int) -> str:
    return f"n={counted(prompts, 'prompt')}: too few for an interval"


def as_text(found: dict, number: Callable[[float], str] = "{:.3f}".format, between: str = "[{}, {}]") -> str:
    """An estimate with its interval: 0.713 [0.640, 0.780]. Without one: 0.713 (n=3 prompts: too few for an interval)."""
    if found["value"] is None:
        return "none"
    if found["ci95"] is None:
        return f"{number(found['value'])} ({too_few(found['prompts'])})"
    return f"{number(found['value'])} {between.format(*map(number, found['ci95']))}"
