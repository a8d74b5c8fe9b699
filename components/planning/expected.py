"""What a plan (budget.py) expects of each stage by its name: bytes of memory, and operations."""

from components.methods import METHODS
from components.planning.budget import Budget

RUNTIME = 0.75 * 2**30  # bytes of Python with torch and the libraries of a stage, before any model


def expected_bytes(plan: Budget) -> dict[str, float]:
    """Peak memory of stages that hold a model, on a machine without a GPU."""
    return {stage: RUNTIME + plan.peak(stage) for stage in plan.memory}


def operations_of(plan: Budget) -> dict[str, float]:
    """Floating-point operations by stage, of the stages that the plan counts."""
    found = dict(plan.operations)
    [plain] = [name for name in found if name.startswith("sample (")]
    each = found.pop(plain) / int(plain[len("sample (") : -1])
    return found | {f"sample@{name}": each for name, own in METHODS.items() if own.guidance is None}
