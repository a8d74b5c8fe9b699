"""A Wan-class generator: load, encode, decode, velocity.

Any diffusers WanPipeline folder works. Convention everywhere: x_t = (1 - t) x0 + t x1 with x1 noise, velocity x1 - x0,
t = 1 pure noise; latents are the VAE's, normalised by its latents_mean and latents_std, [B, C, T', H', W'].
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKLWan, FlowMapEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanResidualBlock
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from diffusers.utils import logging
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from components.cores import in_parts
from components.errors import BadInput, NonFinite
from components.generator.folder import check_folder, check_text_encoder
from components.generator.lora import apply_lora
from components.params import Dtype
from components.pretrain_params import WanShape
from components.weights import load_pretrained, load_tokenizer

TIMESTEPS = 1000  # the transformer's timestep is 1000 t
LONGEST_TEXT = 512  # tokens; what Wan 2.1 pads to
CLIPS = 16  # per VAE call on a core: smaller convolutions are slower and round differently


@dataclass(frozen=True)
class Generator:
    """The parts of a WanPipeline. It encodes text and converts pixels; the transformer is used directly."""

    transformer: WanTransformer3DModel
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerFast

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """[C, T', H', W'] of a clip; BadInput for a size the VAE or the patches cannot divide."""
        time, space = self.vae.config.scale_factor_temporal, self.vae.config.scale_factor_spatial
        patch = self.transformer.config.patch_size[1] * space
        if (frames - 1) % time or height % patch or width % patch:
            why = f"{frames} frames of {height}x{width}: frames must be {time}k+1, sides multiples of {patch}"
            raise BadInput("params.yaml", why, key="sampling")
        return self.transformer.config.in_channels, (frames - 1) // time + 1, height // space, width // space

    def encode_text(self, prompts: list[str]) -> torch.Tensor:
        """Text embeddings [B, L, D] of prompts, cleaned and zero-padded as in WanPipeline. NonFinite where an embedding is
        not finite."""
        length = min(self.tokenizer.model_max_length, LONGEST_TEXT)
        cleaned = [prompt_clean(prompt) for prompt in prompts]
        tokens = self.tokenizer(cleaned, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.text_encoder.device)
        hidden = self.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        for prompt, embedding in zip(prompts, hidden, strict=True):
            if not torch.isfinite(embedding).all():
                raise NonFinite(f"the text embedding of {prompt!r}")
        return hidden * tokens.attention_mask[..., None]

    def encode_video(self, clips: np.ndarray) -> torch.Tensor:
        """uint8 [B, T, H, W, 3] to normalised latents (the mode of the posterior)."""
        return self.normalise(in_parts(self._encode, pixels(clips).to(self.vae.device), part=CLIPS))

    def normalise(self, raw: torch.Tensor) -> torch.Tensor:
        mean, std = self._statistics(raw)
        return (raw - mean) / std

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Normalised latents to uint8 [B, T, H, W, 3]; NonFinite where a decoded pixel is not finite."""
        mean, std = self._statistics(latents)
        clips = in_parts(self._decode, latents * std + mean, part=CLIPS)
        for place, clip in enumerate(clips):
            if not torch.isfinite(clip).all():
                raise NonFinite(f"clip {place + 1} of {len(clips)} drawn together")
        return ((clips.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1).numpy(force=True)

    # The VAE caches the state of causal convolutions in attributes: each call uses a shallow copy with the same weights.
    def _encode(self, clips: torch.Tensor) -> torch.Tensor:
        return copy.copy(self.vae).encode(clips).latent_dist.mode()

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        return copy.copy(self.vae).decode(latents).sample

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.vae.config
        return (like.new_tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))


def pixels(clips: np.ndarray) -> torch.Tensor:
    """uint8 [B, T, H, W, 3] to float [B, 3, T, H, W] in [-1, 1]."""
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def velocity(transformer: torch.nn.Module, latents: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """v_theta(x_t, t, y): latents [B, C, T', H', W'], t [B] in [0, 1], text [B, L, D]; computed in the transformer's
    precision, returned in the latents'."""
    dtype = input_dtype(transformer)
    return transformer(latents.to(dtype), t * TIMESTEPS, text.to(dtype), return_dict=False)[0].to(latents.dtype)


def input_dtype(transformer: torch.nn.Module) -> torch.dtype:
    """The dtype of the latents and text that a transformer takes."""
    # Some small parts of a half-precision transformer stay in float32, this layer does not. DDP wraps the model.
    return getattr(transformer, "module", transformer).patch_embedding.weight.dtype


def load_generator(folder: str | Path, lora: str | Path | None = None, dtype: Dtype = "float32") -> Generator:
    """Read a WanPipeline folder without gradients, onto the GPU where there is one; the VAE is always in float32.

    `lora` is merged into the transformer in float32. In bfloat16 it stays an adapter, as rounding would lose small updates.
    """
    folder = Path(folder)
    check_folder(folder)
    transformer = load_transformer(folder, dtype)
    if lora is not None:
        apply_lora(transformer, lora, merge=dtype == "float32")
    vae = load_pretrained(AutoencoderKLWan, folder / "vae")
    text_encoder = load_pretrained(UMT5EncoderModel, folder / "text_encoder", getattr(torch, dtype))
    tokenizer = load_tokenizer(folder / "tokenizer")
    for module in (transformer, vae, text_encoder):
        module.requires_grad_(False).eval().to(PartialState().device)
    check_text_encoder(text_encoder, tokenizer, folder)
    return Generator(transformer, vae, text_encoder, tokenizer)


def load_transformer(
    folder: str | Path, dtype: Dtype = "float32", unread: str | None = None, **config: Any
) -> WanTransformer3DModel:
    """Only the transformer, on the CPU: training on cached latents and text needs no other part. `unread` and `config` are
    those of load_pretrained."""
    logging.set_verbosity(logging.CRITICAL)  # load_pretrained reports wrong tensors in one line
    folder = Path(folder) / "transformer"
    transformer = load_pretrained(WanTransformer3DModel, folder, getattr(torch, dtype), unread, **config)
    return transformer.requires_grad_(False).eval()


def load_early(folder: str | Path) -> dict[str, torch.nn.Module]:
    """The early checkpoint that pretraining keeps beside the finished model: {"transformer", "text_encoder"}."""
    early = Path(folder) / "early"
    text_encoder = load_pretrained(UMT5EncoderModel, early / "text_encoder")
    return {"transformer": load_transformer(early), "text_encoder": text_encoder.requires_grad_(False).eval()}


def save_generator(generator: Generator, folder: str | Path, shift: float = 1.0) -> None:
    """Write a folder that WanPipeline.from_pretrained loads, weights in half precision. Its scheduler has the timesteps of
    components/generator/sampler.py. (FlowMatchEuler would shift twice and end at another timestep.)"""
    pipeline = WanPipeline(
        tokenizer=generator.tokenizer,
        text_encoder=copy.deepcopy(generator.text_encoder).half(),
        vae=copy.deepcopy(generator.vae).half(),
        transformer=copy.deepcopy(generator.transformer).half(),
        scheduler=FlowMapEulerDiscreteScheduler(shift=shift),
    )
    pipeline.save_pretrained(folder)


def small_generator(shape: WanShape, words: list[str]) -> Generator:
    """A small untrained generator of the real classes; all weights are initialised from torch's global seed."""
    tokenizer = word_tokenizer(words, shape.text_tokens)
    text_encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=shape.text_dim,
            d_kv=16,
            num_heads=max(1, shape.text_dim // 16),
            d_ff=2 * shape.text_dim,
            num_layers=shape.text_layers,
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    vae = AutoencoderKLWan(
        base_dim=shape.vae_dim,
        z_dim=shape.latent_channels,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.0] * shape.latent_channels,
        latents_std=[1.0] * shape.latent_channels,
        patch_size=2,  # pixels are folded 2x2 into channels first, as in Wan 2.2: twice as fast here
        in_channels=12,
        out_channels=12,
        scale_factor_temporal=2,
        scale_factor_spatial=4,
    )
    for module in vae.modules():
        # Residual branches start at zero: the untrained VAE is nearly linear and trains several times faster.
        last = {WanResidualBlock: "conv2", WanAttentionBlock: "proj"}.get(type(module))
        if last is not None:
            torch.nn.init.zeros_(getattr(module, last).weight)
            torch.nn.init.zeros_(getattr(module, last).bias)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=shape.heads,
        attention_head_dim=shape.head_dim,
        in_channels=shape.latent_channels,
        out_channels=shape.latent_channels,
        text_dim=shape.text_dim,
        freq_dim=64,
        ffn_dim=shape.ffn_dim,
        num_layers=shape.layers,
        rope_max_seq_len=64,
    )
    return Generator(transformer, vae, text_encoder, tokenizer)


def word_tokenizer(words: list[str], length: int) -> PreTrainedTokenizerFast:
    """A tokenizer with exactly these words; every sequence ends with </s>."""
    special = ["<pad>", "</s>", "<unk>"]
    tokens = {word: index for index, word in enumerate(special + sorted(words))}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=length
    )
