"""Write a VideoReward in the published layout (VideoAlign's), for the programs that read only that one.

    OUT/model_config.json              frame plan, dimensions, normalisation, name of the base model
    OUT/checkpoint-N/model.pth         every tensor, LoRA merged, names of transformers 4.45
    OUT/checkpoint-N/tokenizer/        the base model's, with the reward tokens
    OUT/prompt_template.txt            the text around a video

The layout names a template by its type, and its readers carry the texts. Type `detailed_special` is written for that very
text. For any other one the type is the name of the file, which readers refuse: none of them scores with a wrong text.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from components.errors import BadInput
from components.files.atomic import atomic_write, whole_folder
from components.pipeline.stage import write_json
from components.reward.backbones.videoalign import FACTOR, KIND, base_rows, check_base, published_name
from components.reward.card import CARD, RewardCard
from components.reward.model import VideoReward, load_video_reward
from components.reward.prompt import Readout, reward_token
from components.reward.published import MIN_PIXELS, READOUTS, is_published
from components.reward.published_config import CONFIG, base_folder, find_base
from components.runtime.weights import load_tokenizer

DIMENSIONS = ["VQ", "MQ", "TA"]  # readers have these three built in
TEMPLATE = "prompt_template.txt"
# SHA-256 of the template texts that readers carry, by type.
TYPES = {"fdb6309bac618dd0c8b1b589d3a0970a974f7856eecbb355a190b2dce54af700": "detailed_special"}
LOSSES = {"regression": "reg"}  # by our name, where theirs is another
REWARD_TOKENS: dict[Readout, str] = {readout: name for name, readout in READOUTS.items()}


@dataclass(frozen=True)
class Exported:
    """Files of an export, and the type by which readers find the template: the name of its file where they have none."""

    files: list[Path]
    template_type: str
    base: str


def export_videoalign(folder: Path, out: Path, base: str | None = None) -> Exported:
    """Write the VideoReward of `folder` to `out`, which must not be there.

    base: what model_config.json names, a hub id or a path; by default that which the model was trained from. It must be
        here: readers take tokenizer and sizes from it. BadInput, of the file and key, for what the layout cannot hold, and
        for a base model with another tokenizer, chat template or size. Nothing is left of an export that fails.
    """
    if is_published(folder):
        raise BadInput(folder, "in this layout already")
    if out.exists():
        raise BadInput(out, "there already")
    model, card = load_video_reward(folder)
    check_card(folder / CARD, card, model)
    named = base or _trained_from(folder / CARD, card)
    place = base_folder(find_base(out / CONFIG, named))
    check_base(place, model.backbone.network.config)
    _check_tokenizer(place, model)
    step = card.provenance.get("steps", 1)
    template_type = TYPES.get(hashlib.sha256(card.template.encode()).hexdigest(), TEMPLATE)
    with whole_folder(out) as partial:
        checkpoint = partial / f"checkpoint-{step}"
        model.prompts.tokenizer.save_pretrained(checkpoint / "tokenizer")
        torch.save(published_tensors(model, base_rows(place)), checkpoint / "model.pth")
        write_json(partial / CONFIG, model_config(card, named, bool(model.prompts.reward_ids), template_type))
        atomic_write(partial / TEMPLATE, card.template)
    written = [CONFIG, TEMPLATE, f"{checkpoint.name}/model.pth", f"{checkpoint.name}/tokenizer"]
    return Exported([out / name for name in written], template_type, named)


def check_card(file: Path, card: RewardCard, model: VideoReward) -> None:
    """BadInput names what of a model the layout has no place for, or its readers no code."""
    kind = model.backbone.network.config.model_type
    if kind != KIND:
        raise BadInput(file.with_name("config.json"), f"'{kind}': readers of the layout load {KIND}", key="model_type")
    if card.dimensions != DIMENSIONS:
        raise BadInput(file, f"{card.dimensions}: the layout's readers have {DIMENSIONS}, in this order", key="dimensions")
    if card.readout not in REWARD_TOKENS:
        known = ", ".join(REWARD_TOKENS)
        raise BadInput(file, f"'{card.readout}': the layout can say {known}", key="readout")
    if card.head == "shared" and card.readout != "special":
        raise BadInput(file, "'shared' gives one score at one place: the layout has a row a dimension there", key="head")
    if card.positions != "plain":
        raise BadInput(file, f"'{card.positions}': the layout's readers number tokens 0, 1, 2, ...", key="positions")
    plan = card.frame_plan
    for key, found, fixed in (("min_pixels", plan.min_pixels, MIN_PIXELS), ("factor", plan.factor, FACTOR)):
        if found != fixed:
            raise BadInput(file, f"{found}: the layout's readers have {fixed} built in", key=f"frame_plan.{key}")


def published_tensors(model: VideoReward, rows: int) -> "OrderedDict[str, torch.Tensor]":
    """Every tensor by its published name. rows: of the base model's embedding, which readers keep where a model has no
    reward tokens; the rows that no token has are zeros."""
    tied: dict[int, torch.Tensor] = {}  # by address: what is one tensor here is one in the file
    tensors: OrderedDict[str, torch.Tensor] = OrderedDict()
    embeddings = {model.backbone.embedding, "lm_head.weight"}
    for name, tensor in model.backbone.network.state_dict().items():
        if name in embeddings and not model.prompts.reward_ids:
            missing = rows - len(tensor)
            tensor = tied.setdefault(tensor.data_ptr(), torch.cat([tensor, tensor.new_zeros(missing, tensor.shape[1])]))
        tensors[published_name(name)] = tensor
    tensors["rm_head.weight"] = model.head.weight.detach()
    return tensors


def model_config(card: RewardCard, base: str, adds_tokens: bool, template_type: str) -> dict[str, Any]:
    """model_config.json, with the keys of the published runs: readers refuse others, and miss some that are absent."""
    plan = card.frame_plan
    return {
        "data_config": {
            "meta_data": "",
            "data_dir": "",
            "meta_data_test": None,
            "max_frame_pixels": plan.max_pixels,
            "num_frames": plan.frames,
            "fps": plan.fps,
            "p_shuffle_frames": 0.0,
            "p_color_jitter": 0.0,
            "eval_dim": card.dimensions,
            "prompt_template_type": template_type,
            "add_noise": False,
            "sample_type": plan.sampling,
            "use_tied_data": True,
        },
        "training_args": {},
        "model_config": {
            "model_name_or_path": base,
            "model_revision": "main",
            "output_dim": 1 if card.head == "shared" else len(card.dimensions),
            "use_special_tokens": adds_tokens,
            "freeze_vision_tower": False,
            "freeze_llm": False,
            "tune_merger": True,
            "torch_dtype": card.dtype,
            "trust_remote_code": False,
            "attn_implementation": None,
            "load_in_8bit": False,
            "load_in_4bit": False,
            "bnb_4bit_quant_type": "nf4",
            "use_bnb_nested_quant": False,
            "reward_token": REWARD_TOKENS[card.readout],
            "loss_type": LOSSES.get(card.loss or "", card.loss) or "regular",
        },
        "peft_lora_config": {  # merged into the weights
            "lora_enable": False,
            "vision_lora": False,
            "lora_r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.0,
            "lora_target_modules": None,
            "lora_namespan_exclude": None,
            "lora_modules_to_save": None,
            "lora_task_type": "CAUSAL_LM",
            "use_rslora": False,
            "num_lora_modules": -1,
        },
        "inference_config": {
            f"{name}_{of}": getattr(card.normalisation[name], of) for name in card.dimensions for of in ("mean", "std")
        },
    }


def _trained_from(file: Path, card: RewardCard) -> str:
    """The base model that a card names."""
    base = card.provenance.get("base")
    if not isinstance(base, str):
        raise BadInput(file, "names no base model: give it (--base)", key="provenance.base")
    if is_published(Path(base)) or (Path(base) / CARD).exists():
        raise BadInput(file, f"{base} is a VideoReward itself: give the base model (--base)", key="provenance.base")
    return base


def _check_tokenizer(base: Path, model: VideoReward) -> None:
    """BadInput where the base's tokenizer, with the reward tokens, or its chat template is not the model's."""
    theirs, ours = load_tokenizer(base), model.prompts.tokenizer
    if model.prompts.reward_ids:
        theirs.add_tokens(list(map(reward_token, DIMENSIONS)), special_tokens=True)
    if theirs.get_vocab() != ours.get_vocab():
        raise BadInput(base, "its tokenizer, with the reward tokens, is not the reward model's: not its base model")
    if theirs.chat_template != ours.chat_template:
        raise BadInput(base, "its chat template is not the reward model's: not its base model", key="chat_template")
