"""Which model scores, by its files: known without reading its weights."""

from dataclasses import dataclass
from pathlib import Path

from components.config.types import Dtype
from components.errors import BadInput
from components.pipeline.stage import folder_digest
from components.reward.card import NO_MODEL, read_card
from components.reward.scores import version_in

# Modules that read models import torch, which takes seconds: only where they are needed.


@dataclass(frozen=True)
class ModelFiles:
    """What RewardModel.load is given; `template` and `step` are of the published layout. dtype: None is the model's own."""

    folder: str
    template: str | None
    step: int
    dtype: Dtype | None = None

    def there(self) -> Path:
        """The folder; BadInput where there is none."""
        if not Path(self.folder).is_dir():
            raise BadInput(self.folder, NO_MODEL)
        return Path(self.folder)

    def version(self) -> str:
        """Digest of all bytes that the model's scores depend on, and a dtype that is not its own; they are stamped with
        it."""
        from components.reward.published import is_published, published_dtype, published_version

        folder = self.there()
        if is_published(folder):
            own = self.dtype and published_dtype(folder)
            return version_in(published_version(folder, self.template, self.step), own or "", self.dtype)
        own = self.dtype and read_card(folder).dtype
        return version_in(folder_digest(folder), own or "", self.dtype)

    def dimensions(self) -> list[str]:
        from components.reward.published import is_published, published_dimensions

        folder = self.there()
        return published_dimensions(folder) if is_published(folder) else read_card(folder).dimensions

    def tie_thresholds(self) -> dict[str, float | None]:
        """By dimension and Overall; none for the published layout."""
        from components.reward.published import is_published

        folder = self.there()
        return {} if is_published(folder) else read_card(folder).tie_thresholds
