"""What families of one transformer and one VAE share: a folder's parts, a loaded generator, prompts by T5, a trunk's tokens.

A family composes these; it inherits nothing.
"""

import copy
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from accelerate import PartialState
from diffusers.utils import logging
from torch import nn
from torch.fx.experimental import _config as fx_config
from transformers import PreTrainedTokenizerBase

from components.config.types import WHOLE, Decoding, Dtype
from components.errors import BadInput, NonFinite
from components.files.text import read_json
from components.generator.conditioning import Conditioning
from components.generator.family import Family, Network, TextEncoder, VelocityModel, check_blocks
from components.generator.lora import apply_lora
from components.generator.parts import SCHEDULER, check_part, read_object, read_scheduler
from components.generator.pixels import clips_of, pixels
from components.runtime.microbatches import in_microbatches
from components.runtime.weights import load_pretrained

TIMESTEPS = 1000  # of diffusers' flow schedulers: timestep 1000 t
CLIPS = 16  # per VAE call on a core
PROBES = "a red circle", "two people dance at night"  # prompts whose embeddings must differ
EULER = "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True)
class Part:
    """A part of a folder: its class, and the class of its configuration where transformers made it."""

    kind: Any
    config: Any = None

    def new(self, config: dict[str, Any]) -> nn.Module:
        """The part with random weights."""
        return self.kind.from_config(config) if self.config is None else self.kind(self.config(**config))

    def check(self, folder: Path) -> dict[str, Any]:
        """Its configuration; BadInput where the folder has another class, or not all weights."""
        config = read_object(folder / "config.json")
        key, name = ("_class_name", self.kind.__name__) if self.config is None else ("model_type", self.config.model_type)
        check_part(folder, config, key, name)
        return config

    def load(self, folder: Path, dtype: Dtype = "float32", unread: str | None = None, **config: Any) -> Network:
        """The part with the folder's weights, on the CPU, without gradients."""
        logging.set_verbosity(logging.CRITICAL)  # load_pretrained reports wrong tensors in one line
        part = load_pretrained(self.kind, folder, getattr(torch, dtype), unread, **config)
        return part.requires_grad_(False).eval()

    def on_device(self, folder: Path, dtype: Dtype = "float32") -> Network:
        """The same on the GPU where there is one."""
        return self.load(folder, dtype).to(PartialState().device)


Parts = Mapping[str, Part]


def check_parts(folder: Path, parts: Parts, tokenizers: tuple[str, ...], reverse: bool = False) -> dict[str, dict[str, Any]]:
    """The configurations of a folder's parts; BadInput names what is missing or of another class. reverse: whether the
    scheduler has to run from 0 to 1, as Mochi's does. The other way round, a pipeline draws noise without an error."""
    configs = {name: part.check(folder / name) for name, part in parts.items()}
    scheduler = read_scheduler(folder)
    if reverse and scheduler["_class_name"] != EULER:
        why = f"is {scheduler['_class_name']}; this pipeline needs {EULER} with invert_sigmas"
        raise BadInput(folder / SCHEDULER, why, key="_class_name")
    if bool(scheduler.get("invert_sigmas")) != reverse:
        raise BadInput(folder / SCHEDULER, f"must be {str(reverse).lower()} for this pipeline", key="invert_sigmas")
    for name in tokenizers:
        if not (folder / name).is_dir():
            raise BadInput(folder / name, "missing: the pipeline's folder has its tokenizer")
    return configs


def same(folder: Path, configs: dict[str, Any], here: tuple[str, str], there: tuple[str, str]) -> None:
    """BadInput where two parts of a folder differ in a size that they share. here, there: part and key."""
    a, b = configs[here[0]].get(here[1]), configs[there[0]].get(there[1])
    if a != b:
        why = f"is {a}, and {there[0]}'s {there[1]} is {b}: parts of two models"
        raise BadInput(folder / here[0] / "config.json", why, key=here[1])


@dataclass(frozen=True)
class Coder:
    """A VAE as its pipeline uses it: normalised latents are (z - mean) / std by channel.

    time, space: frames and pixels a latent; side: what a clip's sides are multiples of; mean, std [C] or [1]. tile: makes
    the VAE decode in tiles of a number of pixels, a multiple of 4 latents. given: more arguments of its decode. alone: one
    clip a call, as the VAE fails on several or `given` is of one.
    """

    vae: Network
    channels: int
    time: int
    space: int
    side: int
    mean: torch.Tensor
    std: torch.Tensor
    tile: Callable[[Network, int], None]
    given: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False

    def shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """[C, T', H', W'] of a clip; BadInput where the pipeline would cut it or fail."""
        if (frames - 1) % self.time or height % self.side or width % self.side:
            why = f"{frames} frames of {height}x{width}: frames must be {self.time}k+1, sides multiples of {self.side}"
            raise BadInput("params.yaml", why, key="sampling")
        return self.channels, (frames - 1) // self.time + 1, height // self.space, width // self.space

    def encode(self, clips: torch.Tensor) -> torch.Tensor:
        """Pixels [B, 3, T, H, W] to normalised latents, the mode of the posterior."""
        vae = copy.copy(self.vae)
        raw = torch.cat([vae.encode(part).latent_dist.mode() for part in self._parts(clips)])
        mean, std = self._statistics(raw)
        return (raw - mean) / std

    def decode(self, latents: torch.Tensor, decoding: Decoding = WHOLE) -> torch.Tensor:
        """Normalised latents to pixels."""
        mean, std = self._statistics(latents)
        vae = copy.copy(self.vae)
        if decoding.decode == "tiled":
            self.tile(vae, tile_side(self.space, decoding.tile))
        return torch.cat([vae.decode(part, **self.given).sample for part in self._parts(latents * std + mean)])

    def _parts(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return batch.split(1) if self.alone else (batch,)

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = (value.to(like).view(1, -1, 1, 1, 1) for value in (self.mean, self.std))
        return mean, std


def tile_side(space: int, most: int) -> int:
    """Pixels of a tile's side, a multiple of 4 latents, so that three quarters of a tile are whole latents."""
    return max(1, most // (4 * space)) * 4 * space


def tile_by_stride(vae: Network, side: int) -> None:
    """Coder.tile of a VAE that is given the stride of its tiles."""
    vae.enable_tiling(
        tile_sample_min_height=side,
        tile_sample_min_width=side,
        tile_sample_stride_height=side * 3 // 4,
        tile_sample_stride_width=side * 3 // 4,
    )


@dataclass(frozen=True)
class FolderGenerator:
    """Generator of components/generator/family.py. text: None where no prompt is to be encoded."""

    model: VelocityModel
    coder: Coder
    text: TextEncoder | None = None
    scheduler: Mapping[str, Any] = field(default_factory=dict)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        return self.coder.shape(frames, height, width)

    def encode_text(self, prompts: list[str]) -> Conditioning:
        assert self.text is not None, "a generator for sampling gets encoded prompts by with_text"
        return self.text(prompts)

    def with_text(self, encoder: TextEncoder) -> "FolderGenerator":
        return replace(self, text=encoder)

    def encode_video(self, clips: np.ndarray) -> torch.Tensor:
        return in_microbatches(self.coder.encode, pixels(clips).to(self.coder.vae.device), rows=CLIPS)

    def decode(self, latents: torch.Tensor, decoding: Decoding = WHOLE) -> np.ndarray:
        if decoding.decode == "whole":
            return clips_of(in_microbatches(self.coder.decode, latents, rows=CLIPS))
        return np.concatenate([clips_of(self.coder.decode(one, decoding)) for one in latents.split(1)])


def generator_of(
    family: Family, folder: Path, coder: Callable[[Network], Coder], vae: Part, lora: str | Path | None, dtype: Dtype
) -> FolderGenerator:
    """Family.load: the transformer with the LoRA applied, and the VAE in float32."""
    transformer = family.load_transformer(folder, dtype)
    if lora is not None:
        apply_lora(transformer, lora, dtype == "float32", family.original_name)
    model = VelocityModel(family, transformer).eval().to(PartialState().device)
    return FolderGenerator(model, coder(vae.on_device(folder / "vae")), scheduler=read_scheduler(folder))


def load_blocks(part: Part, folder: Path, blocks: int, dtype: Dtype, more: int = 0) -> Network:
    """A transformer with its first blocks of `transformer_blocks`, and `more` of them as the caller removes again. The
    weights of all others are not read. BadInput where there are fewer."""
    there = read_json(folder / "transformer/config.json", "num_layers")["num_layers"]
    check_blocks(blocks, there)
    unread = rf"transformer_blocks\.(?!({'|'.join(map(str, range(blocks)))})\.)"
    return part.load(folder / "transformer", dtype, unread, num_layers=min(there, blocks + more))


@dataclass(frozen=True)
class T5Text:
    """TextEncoder by T5: `text` [B, L, D] and its `mask` [B, L], of prompts padded to L tokens.

    masked: whether the encoder is given the mask; without it, padding changes the embeddings. empty_is_zero: the empty
    prompt is read as L zeros, all masked. given: numbers that each row has beside, by name.
    """

    model: Network
    tokenizer: PreTrainedTokenizerBase
    length: int
    masked: bool
    empty_is_zero: bool = False
    given: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __call__(self, prompts: list[str]) -> Conditioning:
        return Conditioning.cat([self._embedded(prompt) for prompt in prompts])

    def _embedded(self, prompt: str) -> Conditioning:
        """One row. Each prompt goes alone, so that others do not change its rounding."""
        tokens = padded(self.tokenizer, [prompt], self.length).to(self.model.device)
        ids, mask = tokens.input_ids, tokens.attention_mask.bool()
        if self.empty_is_zero and not prompt:
            ids, mask = torch.zeros_like(ids), torch.zeros_like(mask)
        hidden = self.model(ids, attention_mask=mask if self.masked else None)[0]
        check_finite(hidden, prompt)
        beside = {name: hidden.new_tensor([numbers], dtype=torch.float32) for name, numbers in self.given.items()}
        return Conditioning({"text": hidden, "mask": mask, **beside})


def padded(tokenizer: Any, prompts: list[str], length: int, **settings: Any) -> Any:
    return tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt", **settings)


def check_finite(hidden: torch.Tensor, prompt: str) -> None:
    if not torch.isfinite(hidden).all():
        raise NonFinite(f"the text embedding of {prompt!r}")


@torch.no_grad()
def check_effect(encoder: TextEncoder, folder: Path, vocabulary: Mapping[str, tuple[Any, Network]]) -> None:
    """BadInput where two prompts have one embedding, or a tokenizer has more tokens than its encoder. vocabulary: tokenizer
    and encoder by part."""
    for part, (tokenizer, model) in vocabulary.items():
        there = len(model.get_input_embeddings().weight)
        if len(tokenizer) > there:
            why = f"has {there} tokens and the tokenizer {len(tokenizer)}: they are of two models"
            raise BadInput(folder / part, why)
    one, other = encoder(list(PROBES)).split(1)
    texts = {name: (text.float(), other.tensors[name].float()) for name, text in one.tensors.items() if "text" in name}
    if all((here - there).abs().max() <= 1e-6 * here.abs().max() for here, there in texts.values()):
        raise BadInput(folder / "text_encoder", "gives one embedding for unlike prompts, so prompts have no effect")


_caught = threading.local()  # by thread: parts of a batch run side by side


class Catch(nn.Module):
    """In the place of a trunk's last norm: its input, the tokens after the last block, is what `tokens_of` returns."""

    def forward(self, tokens: torch.Tensor, *_: Any) -> torch.Tensor:
        _caught.tokens = tokens
        return tokens


def tokens_of(pass_: Callable[[], object]) -> torch.Tensor:
    """Tokens [B, N, width] of a pass through a trunk whose last norm is a Catch."""
    pass_()
    tokens = _caught.tokens
    del _caught.tokens
    return tokens


@contextmanager
def shapes_alone(latents: torch.Tensor) -> Iterator[None]:
    """For passes on torch's meta device, where tensors have no values and some transformers read them: each mask selects all
    tokens, an image's embeddings count as zero, and there is no autocast."""
    if not latents.is_meta:
        yield
        return
    all_of = torch.all

    def true(mask: torch.Tensor, *axes: Any, **settings: Any) -> Any:
        return all_of(mask, *axes, **settings) if axes or settings else True

    settings: Any = fx_config
    no_autocast = patch.object(torch, "autocast", lambda *_, **__: nullcontext())
    with settings.patch(meta_nonzero_assume_all_nonzero=True), patch.object(torch, "all", true), no_autocast:
        yield


def drawn(coder: Coder, clip: torch.Tensor, decoding: Decoding) -> Callable[[], object]:
    """Family.passes of a VAE: decoding latents `clip` whole, or one tile of them beside those decoded before."""
    part, tiled = clip.float(), decoding.decode == "tiled"
    before = 0
    if tiled:
        side = tile_side(coder.space, decoding.tile) // coder.space
        part = part[..., :side, :side]
        before = math.prod(clip.shape[2:]) * coder.time * coder.space**2 * 3 * 16 // 9  # tiles overlap
    return lambda: (coder.vae.decode(part, **coder.given), part.new_empty(before))


def no_original_name(layer: str) -> str | None:
    """Family.original_name of a family whose LoRA files are read by diffusers' names alone."""
    return None
