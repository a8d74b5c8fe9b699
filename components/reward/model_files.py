"""Which model scores, by its files: known without reading its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import BadInput
from components.stage import folder_digest

# Modules that read models import torch, which takes seconds: only where they are needed.


@dataclass(frozen=True)
class ModelFiles:
    """What RewardModel.load is given; `template` and `step` are of the published layout."""

    folder: str
    template: str | None
    step: int

    def there(self) -> Path:
        """The folder; BadInput where there is none."""
        if not Path(self.folder).is_dir():
            raise BadInput(self.folder, "no such folder of a model; `dvc repro reward` makes models/video_reward")
        return Path(self.folder)

    def version(self) -> str:
        """Digest of all bytes that the model's scores depend on; they are stamped with it."""
        from components.reward.published import is_published, published_version

        folder = self.there()
        return published_version(folder, self.template, self.step) if is_published(folder) else folder_digest(folder)

    def facts(self) -> dict[str, Any]:
        """`dimensions`, and `tie_thresholds` by dimension and Overall (none for the published layout)."""
        from components.reward.facts import read_facts
        from components.reward.published import is_published, published_dimensions

        folder = self.there()
        if is_published(folder):
            return {"dimensions": published_dimensions(folder), "tie_thresholds": {}}
        return read_facts(folder)
