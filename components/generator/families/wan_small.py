"""Small Wan generators for the demo and for tests: made, pretrained in part, written and read."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMapEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanResidualBlock
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from components.config.pretrain import GeneratorShape
from components.generator.families.wan import Wan, WanGenerator, WanText
from components.generator.family import VelocityModel
from components.runtime.weights import load_pretrained

SmallGenerator = WanGenerator
EARLY = "early"  # checkpoint beside a finished model


def load_early(base: WanGenerator, folder: str | Path) -> WanGenerator:
    """`base`, of `folder`, with transformer and text encoder of the early checkpoint that pretraining keeps beside it."""
    early = Path(folder) / EARLY
    text_encoder = load_pretrained(UMT5EncoderModel, early / "text_encoder").requires_grad_(False).eval()
    model = VelocityModel(base.model.family, Wan().load_transformer(early, "float32")).eval()
    return replace(base, model=model, text=WanText(text_encoder, text_of(base).tokenizer))


def text_of(generator: WanGenerator) -> WanText:
    """The text encoder of a generator that has its own."""
    assert isinstance(generator.text, WanText)
    return generator.text


def save_early(generator: WanGenerator, folder: Path) -> None:
    """The early checkpoint, weights in half precision; the VAE is the finished model's."""
    for name, part in (("transformer", generator.model.transformer), ("text_encoder", text_of(generator).model)):
        copy.deepcopy(part).half().save_pretrained(folder / EARLY / name)


def save_generator(generator: WanGenerator, folder: str | Path, shift: float = 1.0) -> None:
    """Write a folder that WanPipeline.from_pretrained loads, weights in half precision. Its scheduler has the timesteps of
    components/generator/sampler.py."""
    pipeline = WanPipeline(
        tokenizer=text_of(generator).tokenizer,  # pyright: ignore[reportArgumentType]
        text_encoder=copy.deepcopy(text_of(generator).model).half(),
        vae=copy.deepcopy(generator.vae).half(),
        transformer=copy.deepcopy(generator.model.transformer).half(),
        # FlowMatchEulerDiscreteScheduler would shift twice and end elsewhere.
        scheduler=FlowMapEulerDiscreteScheduler(shift=shift),  # pyright: ignore[reportArgumentType]
    )
    pipeline.save_pretrained(folder)


def parts_of(generator: WanGenerator) -> dict[str, torch.nn.Module]:
    return {"transformer": generator.model.transformer, "vae": generator.vae, "text_encoder": text_of(generator).model}


def freeze_encoder(generator: WanGenerator) -> None:
    """Exclude the VAE's encoder from training, so that latents stay."""
    generator.vae.encoder.requires_grad_(False)
    generator.vae.quant_conv.requires_grad_(False)


def set_statistics(generator: WanGenerator, latents: torch.Tensor) -> None:
    """Write mean and standard deviation by channel of raw latents [N, C, T', H', W'] to the VAE's config."""
    channels = latents.transpose(0, 1).flatten(1)
    config = {"latents_mean": channels.mean(1).tolist(), "latents_std": channels.std(1).tolist()}
    generator.vae.register_to_config(**config)


def small_generator(shape: GeneratorShape, words: list[str]) -> WanGenerator:
    """A small untrained generator of the real classes; all weights are initialised from torch's global seed."""
    tokenizer: Any = word_tokenizer(words, shape.text_tokens)
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
    return WanGenerator(VelocityModel(Wan(), transformer), vae, WanText(text_encoder, tokenizer))


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
