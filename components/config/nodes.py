"""Stages whose work several nodes can share."""

from components.errors import BadInput

SHARED = ("reward", "judge_reward", "candidates", "align", "sample")  # before their `@`


def refuse_single(name: str) -> None:
    """BadInput for a stage that runs on one node."""
    if name.partition("@")[0] not in SHARED:
        raise BadInput("params.yaml", only_shared(name), key=f"orchestration.stages.{name}.nodes")


def only_shared(name: str) -> str:
    return f"stage {name} runs on one node; several can share {', '.join(SHARED)}"
