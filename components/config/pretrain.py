"""Types of pretrained/params.yaml: the training of the demo's two small models. It is separate from params.yaml because it
belongs to those models, whatever profile runs."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from components.config.params import FramePlanParams, TrainingParams
from components.config.types import Count, Fraction, Positive, Section, read_section

FILE = Path("pretrained/params.yaml")
LTX_FILE = Path("pretrained/ltx.yaml")


class GeneratorShape(Section):
    """Sizes of the demo's small generator (transformer, VAE, text encoder)."""

    heads: Count
    head_dim: Count
    layers: Count
    ffn_dim: Count
    text_dim: Count
    text_layers: Count
    text_tokens: Count
    vae_dim: Count
    latent_channels: Count


class CollectionParams(Section):
    """Shares of clips with defects and of wrong captions in a generator's pretraining data."""

    spoiled_share: Fraction
    wrong_caption_share: Fraction


class PretrainGeneratorParams(Section):
    shape: GeneratorShape
    clips: Count
    vae_images: TrainingParams
    vae_videos: TrainingParams
    vae_decoder: TrainingParams
    flow: TrainingParams
    refine: TrainingParams
    early_step: Count
    prompt_dropout: Fraction
    careless: CollectionParams
    chosen: CollectionParams


class LtxShape(Section):
    """Channels of the small LTX-Video generator's VAE; all else is the Wan generator's."""

    encoder: Count
    decoder: Count


class PretrainLtxParams(Section):
    """Training of pretrained/ltx. shift: of its scheduler."""

    shape: LtxShape
    clips: Count
    chosen: CollectionParams
    prompt_dropout: Fraction
    shift: Positive
    encoder: TrainingParams
    decoder: TrainingParams
    flow: TrainingParams


class VlmShape(Section):
    """Sizes of a small Qwen2-VL; patch sizes in px and frames."""

    hidden: Count
    layers: Count
    heads: Count
    kv_heads: Count
    ffn: Count
    vision_dim: Count
    vision_layers: Count
    vision_heads: Count
    patch: Count
    temporal_patch: Count
    merge: Count
    vocabulary: Annotated[int, Field(ge=300)]


class PretrainVlmParams(Section):
    """`vision` trains the tower alone; `training` trains all, the tower at `tuning_rate`."""

    shape: VlmShape
    frames: FramePlanParams
    held_out: Count
    vision: TrainingParams
    tuning_rate: Positive
    training: TrainingParams


class PretrainParams(Section):
    generator: PretrainGeneratorParams
    vlm: PretrainVlmParams


def load_pretrain_params() -> PretrainParams:
    """Read and check the file; BadInput names the key that is unknown, missing or wrong."""
    return read_section(FILE, PretrainParams)


def load_ltx_params() -> PretrainLtxParams:
    """Read and check pretrained/ltx.yaml, in the same way."""
    return read_section(LTX_FILE, PretrainLtxParams)
