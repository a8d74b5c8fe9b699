"""What samples clips, by name: a generator with an optional LoRA, as files and settings that can be sent to a worker."""

import functools
from dataclasses import dataclass
from pathlib import Path

from components.config.params import Dtype
from components.generator.family import Generator, TextEncoder
from components.generator.folder import check_folder
from components.generator.sampler import Solver, solve


@dataclass(frozen=True)
class SamplerSpec:
    """Folders and dtype; a call loads the generator once per process and gives it with the plain solver. Guidance and best
    of N have specs around it (components/guidance)."""

    base: str
    lora: str | None = None
    dtype: Dtype = "float32"

    def __call__(self) -> tuple[Generator, Solver]:
        return generator_once(self), solve

    def text_encoder(self) -> TextEncoder:
        return check_folder(Path(self.base)).load_text(Path(self.base), self.dtype)


@functools.cache
def generator_once(spec: SamplerSpec) -> Generator:
    return check_folder(Path(spec.base)).load(Path(spec.base), spec.lora, spec.dtype)
