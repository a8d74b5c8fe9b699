"""Which model scores, by its files: known without reading its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.stage import folder_digest

# Modules that read models import torch, which takes seconds: only where they are needed.


@dataclass(frozen=True)
class ModelFiles:
    """What RewardModel.load is given; `template` and `step` are of the published layout."""

    folder: str
    template: str | None
    step: int

    def version(self) -> str:
        """Digest of all bytes that the model's scores depend on; they are stamped with it."""
        from components.reward.published import is_published, published_version

        folder = Path(self.folder)
        return published_version(folder, self.template, self.step) if is_published(folder) else folder_digest(folder)

    def facts(self) -> dict[str, Any]:
        """`dimensions`, and `tie_thresholds` by dimension and Overall (none for the published layout)."""
        from components.reward.facts import read_facts
        from components.reward.published import is_published, published_dimensions

        folder = Path(self.folder)
        if is_published(folder):
            return {"dimensions": published_dimensions(folder), "tie_thresholds": {}}
        return read_facts(folder)
