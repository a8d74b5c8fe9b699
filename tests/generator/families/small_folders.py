"""Small folders of each family with random weights, of the real classes. A new family adds its builder to SMALL."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaModel,
    T5Config,
    T5EncoderModel,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from components.generator.families import hunyuan15, ltx2
from components.generator.families.wan_small import save_generator, word_tokenizer
from components.generator.lora_file import LORA
from tests.generator.small import SHAPE, tiny_generator

TRUE_LENGTHS = {name: getattr(hunyuan15, name) for name in ("WORDS", "QUOTED_WORDS", "IMAGE_TOKENS", "TEMPLATE")}
LTX2_WORDS = ltx2.WORDS
WORDS = ["a", "red", "blue", "circle", "moving", "up", "down", "two", "people", "dance", "at", "night"]
Statistics = Callable[[Any], tuple[torch.Tensor, torch.Tensor]]  # of a pipeline's VAE: mean and standard deviation [C]


@dataclass(frozen=True)
class Small:
    """How a family is tested. build: writes its folder; size: of a clip, frames, height and width; call: the pipeline's
    arguments for such a clip at 8 frames a second and a guidance scale; statistics: of the latents that the transformer
    reads; load_lora: the pipeline's own loader; shorten: gives pipeline and family fewer tokens of text, where theirs take
    long on a CPU; sound: of noise [B, C, T', H', W'], further arguments of a pipeline that draws sound."""

    build: Callable[[Path], None]
    size: tuple[int, int, int]
    statistics: Statistics
    guidance: Callable[[Any, float], dict[str, Any]] = lambda pipeline, scale: {"guidance_scale": scale}
    settings: dict[str, Any] = field(default_factory=dict)
    load_lora: Callable[[Any, Path], None] = lambda pipeline, folder: pipeline.load_lora_weights(folder)
    shorten: Callable[[Any, pytest.MonkeyPatch], None] = lambda pipeline, patch: None
    sound: Callable[[Any, torch.Tensor], dict[str, Any]] = lambda pipeline, noise: {}


def loud(module: torch.nn.Module, *names: str) -> torch.nn.Module:
    """The module with noise in its output layer, which is nearly silent before training: a wrong wiring shows."""
    for name in names:
        torch.nn.init.normal_(module.get_submodule(name).weight, std=0.1)
    return module


def t5(tokens: int) -> dict[str, Any]:
    tokenizer = word_tokenizer(WORDS, tokens)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return {"tokenizer": tokenizer, "text_encoder": T5EncoderModel(config)}


def build_wan(folder: Path) -> None:
    save_generator(tiny_generator(), folder, 3.0)


def ltx_vae(timestep_conditioning: bool = False) -> AutoencoderKLLTXVideo:
    torch.manual_seed(0)
    vae = AutoencoderKLLTXVideo(
        timestep_conditioning=timestep_conditioning,
        latent_channels=8,
        block_out_channels=(4, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False,) * 3,
        downsample_type=("conv",) * 2,
        upsample_residual=(False,) * 2,
        upsample_factor=(1, 1),
        scaling_factor=1.3,
    )
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 2.0)
    return vae


def build_ltx(folder: Path) -> None:
    vae = ltx_vae()
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        num_layers=2,
        caption_channels=16,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, shift_terminal=0.1
    )
    parts = {"transformer": loud(transformer, "proj_out"), "vae": vae, "scheduler": scheduler}
    LTXPipeline(**parts, **t5(128)).save_pretrained(folder)


def build_ltx2(folder: Path, padding: str = "zeros") -> None:
    """padding: the decoder's, as published "reflect", for which the contract's tiles are too narrow."""
    torch.manual_seed(0)
    vae = AutoencoderKLLTX2Video(
        decoder_spatial_padding_mode=padding,
        latent_channels=8,
        block_out_channels=(8,),
        down_block_types=("LTX2VideoDownBlock3D",),
        decoder_block_out_channels=(8,),
        layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatiotemporal",),
        upsample_type=("spatiotemporal",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        scaling_factor=1.3,
    )
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1, 1, 1), num_res_blocks=1, latent_channels=2, mel_bins=8, resolution=16
    )
    for part in (vae, audio_vae):
        part.latents_mean.normal_()
        part.latents_std.uniform_(0.5, 2.0)
    transformer = LTX2VideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        vae_scale_factors=(2, 8, 8),
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=6,
        audio_cross_attention_dim=12,
        num_layers=2,
        caption_channels=16,
    )
    tokenizer = word_tokenizer(WORDS, 1024)
    of_text = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    of_text |= {"num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 1}
    of_image = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    of_image |= {"image_size": 28, "patch_size": 14}
    gemma = Gemma3Config(text_config=of_text, vision_config=of_image, mm_tokens_per_image=4, image_token_index=3)
    attention = {"attention_head_dim": 8, "num_attention_heads": 2, "num_layers": 1, "num_learnable_registers": 8}
    connectors = LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=3,
        **{f"{name}_connector_{key}": value for name in ("video", "audio") for key, value in attention.items()},
    )
    vocoder = LTX2Vocoder(
        in_channels=16,
        hidden_channels=8,
        upsample_kernel_sizes=[4],
        upsample_factors=[2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1]],
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, shift_terminal=0.1
    )
    LTX2Pipeline(
        scheduler=scheduler,
        vae=vae,
        audio_vae=audio_vae,
        text_encoder=Gemma3ForConditionalGeneration(gemma),
        tokenizer=tokenizer,
        connectors=connectors,
        transformer=loud(transformer, "proj_out", "audio_proj_out"),
        vocoder=vocoder,
    ).save_pretrained(folder)


def build_mochi(folder: Path) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
        add_attention_block=(False,) * 5,
        scaling_factor=1.2,
    )
    transformer = MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        pooled_projection_dim=16,
        text_embed_dim=16,
        time_embed_dim=16,
    )
    torch.nn.init.normal_(transformer.pos_frequencies)
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    parts = {"transformer": loud(transformer, "proj_out"), "vae": vae, "scheduler": scheduler}
    MochiPipeline(**parts, **t5(256), force_zeros_for_empty_prompt=True).save_pretrained(folder)


def with_prefix(tokens: int, prefix: int) -> Any:
    """A tokenizer that begins with `prefix` tokens more: of real templates, a pipeline cuts a fixed number."""
    tokenizer = word_tokenizer(WORDS, tokens)
    single = "<unk> " * prefix + "$A </s>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, special_tokens=[("</s>", 1), ("<unk>", 2)]
    )
    return tokenizer


def build_hunyuan(folder: Path) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=2
    )
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=16,
        pooled_projection_dim=16,
        rope_axes_dim=(4, 4, 4),
    )
    of_template = len(DEFAULT_PROMPT_TEMPLATE["template"].split("{}")[0].split())
    tokenizer = with_prefix(1000, DEFAULT_PROMPT_TEMPLATE["crop_start"] - of_template)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    llama = LlamaModel(LlamaConfig(**sizes, num_hidden_layers=3))
    clip = CLIPTextModel(CLIPTextConfig(**sizes, num_hidden_layers=1, eos_token_id=1, pad_token_id=0, bos_token_id=2))
    HunyuanVideoPipeline(
        text_encoder=llama,
        tokenizer=tokenizer,
        transformer=loud(transformer, "proj_out", "norm_out.linear"),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=clip,
        tokenizer_2=word_tokenizer(WORDS, 77),
    ).save_pretrained(folder)


def build_hunyuan15(folder: Path) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(8, 8, 16, 16, 16), layers_per_block=1)
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_refiner_layers=1,
        text_embed_dim=16,
        text_embed_2_dim=16,
        image_embed_dim=8,
        rope_axes_dim=(4, 4, 4),
    )
    tokenizer = with_prefix(2000, 0)
    tokenizer.chat_template = "{{ 'x ' * 107 }}{{ messages[1].content }} </s>"
    qwen = Qwen2_5_VLTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
    )
    byt5 = t5(256)
    HunyuanVideo15Pipeline(
        text_encoder=Qwen2_5_VLTextModel(qwen),
        tokenizer=tokenizer,
        transformer=loud(transformer, "proj_out", "norm_out.linear"),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder_2=byt5["text_encoder"],
        tokenizer_2=byt5["tokenizer"],
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    ).save_pretrained(folder)


def set_guider(pipeline: Any, scale: float) -> dict[str, Any]:
    pipeline.guider = ClassifierFreeGuidance(guidance_scale=scale)
    return {}


def shorten_hunyuan15(pipeline: Any, patch: pytest.MonkeyPatch) -> None:
    """Both have 1985 tokens beside the clip's."""
    lengths = {"WORDS": "tokenizer_max_length", "QUOTED_WORDS": "tokenizer_2_max_length"}
    lengths |= {"IMAGE_TOKENS": "vision_num_semantic_tokens", "TEMPLATE": "prompt_template_encode_start_idx"}
    assert {ours: getattr(pipeline, theirs) for ours, theirs in lengths.items()} == TRUE_LENGTHS
    for ours, short in {"WORDS": 40, "QUOTED_WORDS": 20, "IMAGE_TOKENS": 9}.items():
        patch.setattr(hunyuan15, ours, short)
        setattr(pipeline, lengths[ours], short)


def ltx2_guidance(pipeline: Any, scale: float) -> dict[str, Any]:
    """Classifier-free guidance alone, of video and sound."""
    none = {"stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
    return (
        {"guidance_scale": scale}
        | none
        | {f"audio_{key}": value for key, value in {"guidance_scale": scale, **none}.items()}
    )


def shorten_ltx2(pipeline: Any, patch: pytest.MonkeyPatch) -> None:
    assert pipeline.tokenizer.model_max_length == LTX2_WORDS
    patch.setattr(ltx2, "WORDS", 32)


def ltx2_sound(pipeline: Any, noise: torch.Tensor) -> dict[str, Any]:
    """The pipeline normalises what it is given."""
    sound = ltx2.sound_of(pipeline.transformer.config, noise, torch.tensor([8.0]))
    return {"audio_latents": sound * pipeline.audio_vae.latents_std + pipeline.audio_vae.latents_mean}


def load_adapter(pipeline: Any, folder: Path) -> None:
    pipeline.transformer.load_lora_adapter(folder, weight_name=LORA)


def wan_statistics(pipeline: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(pipeline.vae.config.latents_mean), torch.tensor(pipeline.vae.config.latents_std)


def ltx_statistics(pipeline: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return pipeline.vae.latents_mean, pipeline.vae.latents_std / pipeline.vae.config.scaling_factor


def mochi_statistics(pipeline: Any) -> tuple[torch.Tensor, torch.Tensor]:
    config = pipeline.vae.config
    return torch.tensor(config.latents_mean), torch.tensor(config.latents_std) / config.scaling_factor


def hunyuan_statistics(pipeline: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(1), 1 / torch.tensor([pipeline.vae.config.scaling_factor])


SMALL = {
    "WanPipeline": Small(build_wan, (5, 16, 16), wan_statistics, settings={"max_sequence_length": SHAPE.text_tokens}),
    "LTXPipeline": Small(build_ltx, (9, 32, 64), ltx_statistics, settings={"frame_rate": 8}),
    "LTX2Pipeline": Small(
        build_ltx2,
        (9, 32, 64),
        ltx_statistics,
        guidance=ltx2_guidance,
        settings={"frame_rate": 8, "max_sequence_length": 32},
        shorten=shorten_ltx2,
        sound=ltx2_sound,
    ),
    "HunyuanVideoPipeline": Small(build_hunyuan, (5, 16, 32), hunyuan_statistics),
    "MochiPipeline": Small(build_mochi, (7, 16, 32), mochi_statistics),
    "HunyuanVideo15Pipeline": Small(
        build_hunyuan15,
        (5, 16, 32),
        hunyuan_statistics,
        guidance=set_guider,
        load_lora=load_adapter,
        shorten=shorten_hunyuan15,
    ),
}
