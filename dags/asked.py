"""What may be asked of a DAG run: Airflow refuses anything else before a task starts."""

from airflow.sdk import Param

from components.config.profiles import NAME
from components.pipeline.graph import STAGE_NAME

FULL_HASH = "[0-9a-f]{40}"  # a name would be another commit in each task, once somebody pushes meanwhile


def commit_param(empty: str) -> Param:
    """The commit whose code and params all tasks of the run see. `empty`: what counts where none is given."""
    description = f"Of this repository, its full hash; empty: {empty}"
    return Param(None, type=["null", "string"], pattern=f"^{FULL_HASH}$", description=description)


def profile_param(empty: str) -> Param:
    """The profile of that commit."""
    return Param(None, type=["null", "string"], pattern=f"^{NAME}$", description=f"infra/profiles/NAME.yaml; empty: {empty}")


def stages_param(description: str) -> Param:
    """Names of stages."""
    return Param([], type="array", items={"type": "string", "pattern": f"^{STAGE_NAME}$"}, description=description)
