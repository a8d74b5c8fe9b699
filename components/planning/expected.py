"""What the plan of a profile (budget.py) expects of each stage by its name: bytes of memory, and operations."""

from components.config.params import Params
from components.methods import METHODS
from components.planning.budget import budget

RUNTIME = 0.75 * 2**30  # bytes of Python with torch and the libraries of a stage, before any model


def expected_bytes(params: Params) -> dict[str, float]:
    """Peak memory of stages that hold a model, on a machine without a GPU."""
    found = budget(params)
    return {stage: RUNTIME + found.peak(stage) for stage in found.memory}


def operations_of(params: Params) -> dict[str, float]:
    """Floating-point operations by stage, of the stages that the plan counts."""
    found = dict(budget(params).operations)
    [plain] = [name for name in found if name.startswith("sample (")]
    each = found.pop(plain) / int(plain[len("sample (") : -1])
    return found | {f"sample@{name}": each for name, own in METHODS.items() if own.guidance is None}
