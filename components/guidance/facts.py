"""latent_reward.json: what guidance needs of a latent reward model besides its weights."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from components.config.types import Count
from components.files.text import Record, read_record

FACTS = "latent_reward.json"


class LatentFacts(Record):
    """generator: digest of the folder that the trunk came from; blocks: how many of its transformer; frozen: the trunk
    shares the generator's weights."""

    generator: str
    dimensions: Annotated[list[str], Field(min_length=1)]
    blocks: Count
    frozen: bool


def read_facts(folder: Path) -> LatentFacts:
    """The facts of a model folder; BadInput names the key that is missing or wrong."""
    return read_record(folder / FACTS, LatentFacts)
