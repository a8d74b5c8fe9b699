"""Stages whose work several nodes can share."""

SHARED = ("reward", "judge_reward", "candidates", "align", "sample")  # before their `@`


def shared(name: str) -> bool:
    """Whether several nodes can share a stage."""
    return name.partition("@")[0] in SHARED


def only_shared(name: str) -> str:
    """Why a stage runs on one node."""
    return f"stage {name} runs on one node; several can share {', '.join(SHARED)}"
