"""Read a VideoReward as its authors published it (VideoAlign's layout), without a line of their code.

    RUN/model_config.json                       what it was trained with
    RUN/checkpoint-N/adapter_model.safetensors  LoRA, beside adapter_config.json and non_lora_state_dict.pth, or
    RUN/checkpoint-N/model.pth                  every tensor, LoRA merged, kept apart, or never there

Tensors carry names of older or newer versions of transformers, with or without PEFT's around them.
`model_name_or_path` names the base model (published_config.py, `find_base`). The prompt template is not part of the layout:
the user gives its file.
"""

import hashlib
import json
import pickle
import re
from pathlib import Path
from typing import Any, get_args

import torch

from components.config.types import Dtype
from components.errors import BadInput
from components.files.text import read_json
from components.pipeline.stage import folder_digest
from components.reward.backbones.protocol import Backbone
from components.reward.backbones.registry import load_backbone
from components.reward.card import Norm, PlanCard, RewardCard
from components.reward.model import VideoReward, load_chat
from components.reward.prompt import PromptBuilder, Readout, read_template, reward_token
from components.reward.published_config import CONFIG, ModelConfig, RunConfig, base_folder, find_base, read_config
from components.runtime.weights import load_tensors

LATEST = -1
MIN_PIXELS = 128 * 28 * 28  # a frame, of the published preprocessing; a smaller max_pixels wins where both bind
READOUTS: dict[str, Readout] = {"special": "special", "last": "last", "mean": "mean_but_last"}  # by `reward_token`
LORA = re.compile(r"(.*)\.lora_(A|B)(?:\.default)?\.weight")
STEP = re.compile(r"checkpoint-(\d+)")
WRAPPERS = ("state_dict", "model_state_dict", "module", "model")  # keys under which trainers put the tensors of a .pth


def is_published(folder: Path) -> bool:
    """Whether this is a run's folder; BadInput for a checkpoint inside of one."""
    if (found := STEP.fullmatch(folder.name)) and (folder.parent / CONFIG).exists():
        why = f"a checkpoint of a run: give the run's folder, {folder.parent} (--step {found[1]} chooses this one)"
        raise BadInput(folder, why)
    return (folder / CONFIG).exists()


def published_dimensions(folder: Path) -> list[str]:
    return read_config(folder / CONFIG).data.eval_dim


def published_version(folder: Path, template: str | Path | None, step: int = LATEST) -> str:
    """What scores of a run's checkpoint are stamped with: 16 hex digits of SHA-256 over all that changes them, which are its
    tensors, model_config.json (normalisation, frames), the files of its base model and the prompt template. BadInput as of
    load_published."""
    file = folder / CONFIG
    base = base_folder(find_base(file, read_config(file).model.model_name_or_path))
    parts = find_checkpoint(folder, step), file, base, need_template(file, template)
    return hashlib.sha256(json.dumps([folder_digest(part) for part in parts]).encode()).hexdigest()[:16]


def need_template(file: Path, template: str | Path | None) -> Path:
    """BadInput without a file of the prompt template."""
    if template is None:
        raise BadInput(file, "this layout has no prompt template: give its file (--template)")
    if not Path(template).is_file():
        raise BadInput(template, "missing")
    return Path(template)


def load_published(
    folder: Path, template: str | Path | None, step: int = LATEST, dtype: Dtype | None = None
) -> tuple[VideoReward, RewardCard]:
    """The model of a run's checkpoint and its card, as `load_video_reward` gives them.

    step: the N of checkpoint-N; the highest one for LATEST and, as in the reference, for one that is not there.
    dtype: by default that of published_dtype.
    BadInput names the file, and the tensor or key in it, that is missing, left over, of another shape or not finite.
    """
    file = folder / CONFIG
    config = read_config(file)
    template = need_template(file, template)
    dimensions, adds_tokens, outputs = config.data.eval_dim, config.model.use_special_tokens, config.model.output_dim
    readout = _readout(file, config.model)
    if outputs != len(dimensions) and (outputs, readout) != (1, "special"):
        raise BadInput(file, f"{outputs} outputs for {len(dimensions)} dimensions", key="model_config.output_dim")
    base = base_folder(find_base(file, config.model.model_name_or_path))
    own = published_dtype(folder)
    backbone = load_backbone(base, dtype or own)
    prompts = _prompts(base, backbone, template, dimensions, readout, adds_tokens)
    if adds_tokens:
        # The reference gives the embedding a row a token of the tokenizer; a backbone's own may be padded, so it shrinks.
        backbone.network.resize_token_embeddings(len(prompts.tokenizer), mean_resizing=False)

    model = VideoReward(backbone, prompts, "shared" if outputs == 1 else "per_dimension", "plain")
    checkpoint = find_checkpoint(folder, step)
    _fill(model, checkpoint, read_checkpoint(checkpoint, backbone), adds_tokens)
    version = published_version(folder, template, step)
    return model.eval(), _card(
        model, config, own, {"published": str(checkpoint), "template": str(template), "digest": version}
    )


def published_dtype(folder: Path) -> Dtype:
    """What the run's config names, or else its base model's; float32 where neither names one. BadInput for another."""
    file = folder / CONFIG
    model = read_config(file).model
    key, named = "model_config.torch_dtype", model.torch_dtype
    if named in (None, "auto"):
        file = base_folder(find_base(file, model.model_name_or_path)) / "config.json"
        config = read_json(file)
        key = "torch_dtype" if "torch_dtype" in config else "dtype"
        named = config.get(key) or "float32"
    known: dict[Any, Dtype] = {name: name for name in get_args(Dtype)}
    if named not in known:
        raise BadInput(file, f"{named!r} is none of {', '.join(known)}; choose one with --dtype", key=key)
    return known[named]


def _readout(file: Path, config: ModelConfig) -> Readout:
    """Where the run reads its scores; BadInput where the reference itself could not."""
    name = config.reward_token
    if name not in READOUTS:
        raise BadInput(file, f"'{name}' is none of {', '.join(READOUTS)}", key="model_config.reward_token")
    if name == "special" and not config.use_special_tokens:
        why = "false, and reward_token 'special' reads at special tokens"
        raise BadInput(file, why, key="model_config.use_special_tokens")
    return READOUTS[name]


def _prompts(
    base: Path, backbone: Backbone, template: str | Path, dimensions: list[str], readout: Readout, adds_tokens: bool
) -> PromptBuilder:
    """The text around a video. A run may have had reward tokens and read elsewhere, in a template with or without them."""
    text = read_template(template, dimensions, readout)
    tokenizer, tokens = load_chat(base, backbone), list(map(reward_token, dimensions))
    if adds_tokens:
        tokenizer.add_tokens(tokens, special_tokens=True)
    elif any(token in text for token in tokens):
        raise BadInput(template, "it holds reward tokens, and this model was trained without them")
    return PromptBuilder(tokenizer, backbone.video_token, text, dimensions, readout)


def find_checkpoint(folder: Path, step: int) -> Path:
    """checkpoint-`step`, or the one with the highest number (12 comes after 9)."""
    steps = {int(found[1]): path for path in folder.glob("checkpoint-*") if (found := STEP.fullmatch(path.name))}
    if not steps:
        raise BadInput(folder, "no checkpoint-N here")
    return steps.get(step, steps[max(steps)])


def read_checkpoint(folder: Path, backbone: Backbone) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint under the names of the backbone's network (and rm_head.*), LoRA merged in as
    `<name>.delta`: what to add to a weight that may lie in the base model."""
    whole, own = folder / "model.pth", folder / "adapter_config.json"
    if whole.exists():
        config = read_json(own, "r") if own.exists() else read_config(folder.parent / CONFIG).peft_lora_config
        return merge_lora(_read_pth(whole), config, whole, backbone)
    adapter = folder / "adapter_model.safetensors"
    if not adapter.exists():
        raise BadInput(folder, "neither model.pth nor adapter_model.safetensors is here")
    tensors = load_tensors(adapter) | _read_pth(folder / "non_lora_state_dict.pth")
    return merge_lora(tensors, read_json(own, "r", "lora_alpha"), adapter, backbone)


def merge_lora(
    tensors: dict[str, torch.Tensor], config: dict[str, Any], file: Path, backbone: Backbone
) -> dict[str, torch.Tensor]:
    """Strip wrappings from the names; each pair of A [r, in] and B [out, r] becomes one `.delta` [out, in].

    config: PEFT's adapter_config.json, or the run's peft_lora_config.
    """
    plain, factors = {}, {}
    for name, tensor in tensors.items():
        bare = re.sub(r"^(module\.|_orig_mod\.|base_model\.model\.)+", "", name)
        if bare.count(".original_module."):  # PEFT's copy of a module from before it was trained as a whole
            continue
        if found := LORA.fullmatch(bare):
            factors.setdefault(backbone.current_name(found[1]), {})[found[2]] = tensor.float()
            continue
        place = backbone.current_name(bare.replace(".base_layer.", ".").replace(".modules_to_save.default.", "."))
        if place in plain:
            raise BadInput(file, "there twice, under names of two versions", key=name)
        plain[place] = tensor
    rank, alpha = config.get("r", config.get("lora_r")), config.get("lora_alpha")
    if not factors:
        return plain
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)):
        raise BadInput(file, f"holds LoRA, and its config has rank {rank!r} and alpha {alpha!r}")
    for key in ("rank_pattern", "alpha_pattern"):
        if config.get(key):
            raise BadInput(file.parent / "adapter_config.json", "rank or alpha by layer is not read", key=key)
    for name, pair in factors.items():
        if set(pair) != {"A", "B"}:
            raise BadInput(file, f"LoRA has only {'/'.join(pair)} of A and B", key=name)
        if len(pair["A"]) != rank or pair["B"].shape[1:] != (rank,):
            raise BadInput(file, f"LoRA of rank {len(pair['A'])}, its config has {rank}", key=name)
        scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
        plain[f"{name}.weight.delta"] = scale * pair["B"] @ pair["A"]
    return plain


def _fill(model: VideoReward, checkpoint: Path, tensors: dict[str, torch.Tensor], embedding_trained: bool) -> None:
    """Put a checkpoint's tensors in place, and see that nothing is left over and no trained part is missing."""
    places, backbone = model.backbone.network.state_dict(), model.backbone
    with torch.no_grad():
        for name, tensor in sorted(tensors.items()):  # a weight comes before its .delta
            if not torch.isfinite(tensor).all():
                raise BadInput(checkpoint, "a weight is not finite", key=name)
            delta = name.endswith(".delta")
            place = name.removesuffix(".delta")
            target = model.head.weight if place == "rm_head.weight" else places.get(place)
            if target is None:
                raise BadInput(checkpoint, "this model has no such tensor", key=name)
            if target.shape != tensor.shape:
                raise BadInput(checkpoint, f"is {tuple(tensor.shape)}, not {tuple(target.shape)}", key=name)
            target.add_(tensor) if delta else target.copy_(tensor)
        model.reward_tokens.copy_(places[backbone.embedding][model.prompts.reward_ids])
    required = {"rm_head.weight"} | {name for name in places if name.startswith(backbone.vision)}
    if embedding_trained:
        required.add(backbone.embedding)
    if missing := sorted(required - tensors.keys()):
        raise BadInput(checkpoint, "missing: this part was trained", key=missing[0])


def _card(model: VideoReward, config: RunConfig, dtype: Dtype, provenance: dict[str, str]) -> RewardCard:
    data = config.data
    return RewardCard(
        dimensions=data.eval_dim,
        readout=model.prompts.readout,
        head="shared" if len(model.head.weight) == 1 else "per_dimension",
        head_trained=True,
        loss=config.model.loss_type,
        positions="plain",
        template=model.prompts.template,
        dtype=dtype,
        frame_plan=PlanCard(
            fps=data.fps if data.num_frames is None else None,
            frames=data.num_frames,
            min_pixels=MIN_PIXELS,
            max_pixels=data.max_frame_pixels,
            factor=model.patch_shape.factor,
            sampling=data.sample_type,
        ),
        normalisation={name: Norm(**norm) for name, norm in config.normalisation().items()},
        tie_thresholds=dict.fromkeys([*data.eval_dim, "Overall"]),
        provenance=provenance,
    )


def _read_pth(file: Path) -> dict[str, torch.Tensor]:
    if not file.exists():
        raise BadInput(file, "missing")
    try:
        value = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        # Anything but tensors could run code while it is read.
        raise BadInput(file, "not a file of tensors alone; anything else could run code") from error
    for key in WRAPPERS:
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in value.values()):
        raise BadInput(file, "not a mapping of names to tensors")
    return value
