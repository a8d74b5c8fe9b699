"""Alternating measurements of several ways of one task, each in a separate process for a separate peak of memory."""

import json
import statistics
import subprocess
import sys

Turns = list[dict[str, dict[str, float]]]  # way -> figure -> value, per turn


def take_turns(script: str, arguments: list[str], ways: tuple[str, ...], repeats: int) -> Turns:
    """Run `script ... --way WAY` for all ways, `repeats` times; the last line of each is its figures as JSON."""

    def once(way: str) -> dict[str, float]:
        command = [sys.executable, script, *arguments, "--way", way]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

    return [{way: once(way) for way in ways} for _ in range(repeats)]


def middle(turns: Turns, way: str, key: str, over: str | None = None) -> float:
    """Median of a figure, or of its ratio to that of way `over` in the same turn."""
    return statistics.median(turn[way][key] / (turn[over][key] if over else 1) for turn in turns)
