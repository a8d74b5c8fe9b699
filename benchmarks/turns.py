"""Ways of doing one thing, measured in turns, each time in a process of its own, so that its peak of memory is its own."""

import json
import statistics
import subprocess
import sys

Turns = list[dict[str, dict[str, float]]]  # way -> figure -> value, a turn


def take_turns(script: str, arguments: list[str], ways: tuple[str, ...], repeats: int) -> Turns:
    """Run `script ... --way WAY` for all ways, `repeats` times over; the last line of each is its figures as JSON."""

    def once(way: str) -> dict[str, float]:
        command = [sys.executable, script, *arguments, "--way", way]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

    return [{way: once(way) for way in ways} for _ in range(repeats)]


def middle(turns: Turns, way: str, key: str, over: str | None = None) -> float:
    """Median of a figure, or of its ratio to that of the way `over` in the same turn."""
    return statistics.median(turn[way][key] / (turn[over][key] if over else 1) for turn in turns)
