"""What a generator family is. Each is one file in components/generator/families/; components/generator/folder.py lists them.

Everything outside a family has one convention: x_t = (1 - t) x0 + t x1 with x0 a clip's latents and x1 noise, t in [0, 1],
velocity x1 - x0; latents are [B, C, T', H', W'], normalised as the transformer reads them. A family hides the sign and the
time scale of its transformer, packing, masks, several experts and an embedded guidance scale.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import nn

from components.config.types import WHOLE, Decoding, Dtype
from components.errors import BadInput
from components.generator.conditioning import Conditioning

# Of diffusers, which has no type of a network with PEFT's methods, and none of what each class of pipeline is called with.
Network = Any
Pipeline = Any
HIGH_NOISE, LOW_NOISE = "high_noise", "low_noise"  # the transformers of a generator with two
SECOND_PART = "transformer_2"  # the folder of the second
ROUNDING = 2**-22  # of t, relative: float32 holds thousandths to this

Layout = Callable[[torch.Tensor], torch.Tensor]
TextEncoder = Callable[[list[str]], Conditioning]  # one row per prompt; NonFinite where an embedding is not finite


class VelocityModel(nn.Module):
    """The velocity v(x_t, t, conditioning) of a transformer: what alignment trains and sampling integrates.

    transformer: the family's network, a diffusers model with PEFT's adapters (LoRA is attached to it).
    """

    def __init__(self, family: "Family", transformer: Network):
        super().__init__()
        self.family, self.transformer = family, transformer
        self._no_split_modules = getattr(transformer, "_no_split_modules", None)  # the layers that FSDP shards

    def forward(self, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Latents [B, C, T', H', W'], t [B] in [0, 1]; computed in the transformer's precision, returned in the latents'."""
        return self.family.velocity(self.transformer, latents, t, conditioning)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def networks(self) -> Mapping[str, Network]:
        """Transformers in memory, by name. A generator with two has one for each range of noise levels."""
        return getattr(self.transformer, "networks", {"": self.transformer})

    @property
    def boundary(self) -> float | None:
        """The t below which the second of two transformers acts; None with one."""
        return getattr(self.transformer, "boundary", None)

    @property
    def span(self) -> tuple[float, float]:
        """The noise levels t of the transformers in memory."""
        return getattr(self.transformer, "span", (0.0, 1.0))


def below(t: Any, boundary: float) -> Any:
    """Whether t, a number or a tensor, is below the boundary of two transformers, which is the first's."""
    return t < boundary * (1 - ROUNDING)


class Generator(Protocol):
    """A loaded generator, without gradients."""

    @property
    def model(self) -> VelocityModel: ...

    @property
    def scheduler(self) -> Mapping[str, Any]:
        """The folder's configuration of it, with its class; empty where the folder has none."""
        ...

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        """[C, T', H', W'] of a clip; BadInput for a size that the family cannot draw."""
        ...

    def encode_text(self, prompts: list[str]) -> Conditioning:
        """One row per prompt, by the generator's TextEncoder."""
        ...

    def with_text(self, encoder: TextEncoder) -> Self:
        """The same parts in memory, with this encoder of prompts."""
        ...

    def encode_video(self, clips: np.ndarray) -> torch.Tensor:
        """uint8 [B, T, H, W, 3] to normalised latents (the mode of the posterior)."""
        ...

    def decode(self, latents: torch.Tensor, decoding: Decoding = WHOLE) -> np.ndarray:
        """Normalised latents to uint8 [B, T, H, W, 3]; NonFinite where a pixel is not finite."""
        ...


class Family(Protocol):
    """The parts of a pipeline folder by what people call them, those always in float32, and the layers that a LoRA usually
    adapts. `transformer` below is the network of a VelocityModel, `trunk` one that `cut` has shortened."""

    @property
    def parts(self) -> Mapping[str, str]: ...

    @property
    def float32_parts(self) -> frozenset[str]: ...

    @property
    def lora_targets(self) -> tuple[str, ...]: ...

    @property
    def reads(self) -> tuple[str, ...]:
        """Numbers of params.sampling that the transformer is given: tensors [B] of the conditioning, by the field's name.
        One that is given guidance_scale makes one pass a step, whatever the scale."""
        ...

    def check_folder(self, folder: Path, index: dict[str, Any], key: str | None) -> None:
        """BadInput where a folder of this class cannot be loaded. index: its model_index.json. key: of params.yaml."""
        ...

    def load(self, folder: Path, lora: str | Path | None, dtype: Dtype) -> Generator:
        """Transformer, with the LoRA applied, and VAE, on the GPU where there is one. `with_text` gives the encoder."""
        ...

    def load_text(self, folder: Path, dtype: Dtype) -> TextEncoder:
        """The text encoder alone, on the GPU where there is one. BadInput where prompts have no effect on it."""
        ...

    def load_transformer(self, folder: Path, dtype: Dtype) -> Network:
        """The transformer alone, on the CPU, without gradients."""
        ...

    def load_trunk(self, folder: Path, blocks: int, dtype: Dtype) -> Network:
        """The same, cut to its first blocks; the others are not read. BadInput where there are fewer."""
        ...

    def velocity(
        self, transformer: Network, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """VelocityModel.forward."""
        ...

    def blocks(self, transformer: Network) -> nn.ModuleList:
        """The repeated layers in order. Each takes the tokens [B, N, width] first (`hidden_states` by keyword) and returns
        them, alone or first of several tensors."""
        ...

    def cut(self, trunk: Network, blocks: int) -> None:
        """Remove the later blocks and the output layer, in place."""
        ...

    def tokens(self, trunk: Network, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Tokens [B, N, width] after the trunk's last block, in its own precision."""
        ...

    def attention(self, transformer: Network) -> tuple[int, int]:
        """Heads of the tokens' attention, and the width of each."""
        ...

    def original_name(self, layer: str) -> str | None:
        """The name in the authors' code of the layer that diffusers calls `layer`; LoRA files use either."""
        ...

    def save_lora(self, folder: Path, weights: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        """Write diffusers' LoRA file of this pipeline. weights: PEFT's state; config: that of the adapter."""
        ...

    def read_configs(self, folder: Path) -> dict[str, Any]:
        """Configuration of each part, and what else `example` reads."""
        ...

    def untrained(self, part: str, configs: dict[str, Any]) -> nn.Module:
        """A part with random weights, or on torch's meta device with shapes alone."""
        ...

    def example(
        self, configs: dict[str, Any], models: dict[str, Network], size: tuple[int, int, int]
    ) -> tuple[torch.Tensor, Conditioning]:
        """Latents [1, C, T', H', W'] and conditioning of a clip of frames, height, width, on the meta device."""
        ...

    def passes(
        self, configs: dict[str, Any], models: dict[str, Network], clip: torch.Tensor, decoding: Decoding
    ) -> dict[str, Callable[[], object]]:
        """What sampling runs besides the transformer, by part: to encode one prompt, and to decode one clip of latents
        `clip`, on the meta device."""
        ...

    def load_pipeline(self, folder: Path, **settings: Any) -> Pipeline:
        """diffusers' pipeline of a folder, as the generator reads prompts."""
        ...

    def pipeline_conditioning(
        self, pipeline: Pipeline, prompt: str | list[str], clips: int, **settings: Any
    ) -> Conditioning:
        """Conditioning of `clips` clips of each prompt, for the same settings as the pipeline's call."""
        ...

    def set_timesteps(self, scheduler: Any, steps: int, shape: tuple[int, ...]) -> None:
        """Set the steps of the folder's scheduler, of diffusers, as the pipeline does for latents [C, T', H', W']. BadInput
        for a number of steps that the pipeline cannot take."""
        ...

    def pipeline_layout(self, pipeline: Pipeline, **settings: Any) -> tuple[Layout, Layout]:
        """From latents [B, C, T', H', W'] to the pipeline's own layout of them, and back, for the same settings as the
        pipeline's call."""
        ...

    def pipeline_velocity(self, output: torch.Tensor) -> torch.Tensor:
        """The velocity that a transformer's output in a pipeline is, and the output that a velocity is."""
        ...

    def pipeline_time(self, timestep: torch.Tensor) -> float:
        """t of a pipeline's timestep."""
        ...


@runtime_checkable
class Varied(Protocol):
    """A family whose pipelines differ by what else their model_index.json has."""

    def variant(self, index: Mapping[str, Any]) -> "Family":
        """The family of a folder with this index."""
        ...


@runtime_checkable
class WithImage(Protocol):
    """A family whose generator may draw from an image, the clip's first frame."""

    image: bool

    def finish(self, latents: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """What the pipeline makes of latents after the last step."""
        ...


@runtime_checkable
class WithExperts(Protocol):
    """A family whose generator may have two transformers, HIGH_NOISE and LOW_NOISE."""

    boundary: float | None  # None with one

    def load_experts(self, folder: Path, dtype: Dtype, experts: Sequence[str]) -> Network:
        """`load_transformer` with these alone."""
        ...

    def load_trunk_of(self, folder: Path, expert: str, blocks: int, dtype: Dtype) -> Network:
        """`load_trunk` of this one."""
        ...


@runtime_checkable
class WithSound(Protocol):
    """A family whose latents have the clip's sound in channels after the video's."""

    sound: bool


def two_experts(family: Family) -> bool:
    return isinstance(family, WithExperts) and family.boundary is not None


def check_blocks(blocks: int, there: int) -> None:
    """BadInput where a trunk of `blocks` needs more than the generator has."""
    if blocks > there:
        raise BadInput("params.yaml", f"the generator has {there} blocks", key="latent_reward.blocks")


def plain_timesteps(scheduler: Any, steps: int, shape: tuple[int, ...]) -> None:
    """Family.set_timesteps of a pipeline that gives its scheduler nothing else."""
    scheduler.set_timesteps(steps)


def own_layout(pipeline: Pipeline, **_: Any) -> tuple[Layout, Layout]:
    """Family.pipeline_layout of a pipeline whose latents are [B, C, T', H', W']."""
    return lambda latents: latents, lambda latents: latents
