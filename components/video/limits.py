"""How much of a clip and of a prompt is read at most. Pictures compress a thousandfold, so a small file can hold frames that
fill a machine's memory. What is too large is refused by its header, before anything is decoded."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.config.params import LimitParams


@dataclass(frozen=True)
class Limits:
    """pixels: of a frame; frames: of a clip; bytes: of a video file; prompt: characters of a prompt. Each method gives the
    reason to refuse something, or None."""

    pixels: int
    frames: int
    bytes: int
    prompt: int

    @classmethod
    def of(cls, params: "LimitParams") -> "Limits":
        """Those of section `limits`, or `package.limits`, of params.yaml."""
        return cls(**params.model_dump())

    def refuse_frame(self, width: int, height: int) -> str | None:
        if width * height <= self.pixels:
            return None
        return f"{width}x{height} is {width * height} pixels a frame; at most {self.pixels} are read"

    def refuse_count(self, frames: int) -> str | None:
        return None if frames <= self.frames else f"more than {self.frames} frames, the most that are read"

    def refuse_file(self, size: int) -> str | None:
        return None if size <= self.bytes else f"a file of {size} bytes; at most {self.bytes} are read"

    def refuse_prompt(self, prompt: str) -> str | None:
        if len(prompt) <= self.prompt:
            return None
        return f"the prompt has {len(prompt)} characters; at most {self.prompt} are read"


# 8K in its widest form, two hours of 30 frames a second. Stages and the server have theirs in params.yaml.
LIMITS = Limits(pixels=8192 * 4320, frames=250_000, bytes=1 << 32, prompt=10_000)
