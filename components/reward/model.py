"""VideoReward: Qwen2-VL with a linear head, read out at one special token a dimension (paper section 3.2), or otherwise
(prompt.py, `Readout`).

The folder of a model holds a complete Qwen2-VL (config.json, model.safetensors with LoRA merged and the reward tokens'
embeddings in place, tokenizer), `head.safetensors`, and `video_reward.json` with all that scoring must know:
dimensions, frame plan, template, positions, normalisation, tie thresholds, where it came from.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerBase, Qwen2VLForConditionalGeneration

from components.errors import BadInput
from components.params import LoraParams
from components.reward.facts import FACTS, read_facts
from components.reward.inputs import Batch, PatchShape
from components.reward.prompt import PromptBuilder, check_chat
from components.reward.vision import attend_by_frame, frame_runs
from components.stage import write_json
from components.weights import check_tensors, load_pretrained, load_tensors, load_tokenizer

HEAD = "head.safetensors"
Positions = Literal["plain", "multimodal"]


class VideoReward(nn.Module):
    """Scores r_d(video, prompt), one a dimension, of any scale.

    backbone: a Qwen2VLForConditionalGeneration, LoRA on it or not.
    head: no bias. One output row is shared by all dimensions, as in the published model; with as many rows as
        dimensions each has its own, which a read-out at one place for all of them needs.
    positions: "plain" numbers the tokens 0..L-1 on all three rotary axes, as the published model does; "multimodal" is
        Qwen2-VL's own numbering by frame, row and column. A model scores with what it was trained with.
    """

    _no_split_modules = ("Qwen2VLDecoderLayer", "Qwen2VLVisionBlock")  # what FSDP shares out as a whole

    def __init__(
        self,
        backbone: Qwen2VLForConditionalGeneration,
        prompts: PromptBuilder,
        head: Literal["shared", "per_dimension"],
        positions: Positions,
    ):
        super().__init__()
        attend_by_frame(backbone.model.visual)
        self.backbone = backbone
        self.prompts = prompts
        self.positions = positions
        hidden = backbone.config.text_config.hidden_size
        # The new tokens are parameters of their own, so that training them needs no gradient, no optimizer state and
        # no restoring of the whole embedding. They start near the mean token, as resizing the embedding would put them.
        table = backbone.get_input_embeddings().weight.detach()
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(len(prompts.reward_ids), hidden, generator=generator) * float(table.std())
        self.reward_tokens = nn.Parameter(table.mean(0) + noise.to(table))
        self.head = nn.Linear(hidden, 1 if head == "shared" else len(prompts.dimensions), bias=False)
        nn.init.normal_(self.head.weight, std=hidden**-0.5, generator=generator)

    @property
    def qwen(self) -> Qwen2VLForConditionalGeneration:
        """The backbone without the PEFT wrapper around it."""
        return getattr(self.backbone, "base_model", self.backbone).model if self.has_lora else self.backbone

    @property
    def has_lora(self) -> bool:
        return hasattr(self.backbone, "peft_config")

    @property
    def patch_shape(self) -> PatchShape:
        vision = self.qwen.config.vision_config
        return PatchShape(vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw scores [B, D] in float32."""
        qwen = self.qwen.model
        ids = batch.input_ids
        video = ids == self.prompts.video_id
        # Ids of reward tokens may lie beyond the embedding's rows: they are looked up as 0 and replaced.
        reward = ids == ids.new_tensor(self.prompts.reward_ids)[:, None, None]  # [tokens, B, L]
        embedded = qwen.language_model.embed_tokens(ids.masked_fill(reward.any(0), 0))
        pixels = batch.pixels.to(qwen.visual.dtype)
        features = qwen.visual(pixels, grid_thw=batch.grid, runs=frame_runs(batch.grid)).pooler_output
        embedded = embedded.masked_scatter(video[..., None], features.to(embedded.dtype))
        tokens = torch.einsum("dbl,dh->blh", reward.to(embedded), self.reward_tokens.to(embedded))
        embedded = torch.where(reward.any(0)[..., None], tokens, embedded)
        hidden = qwen.language_model(
            inputs_embeds=embedded, position_ids=self._positions(batch, video), use_cache=False
        ).last_hidden_state
        return (self._read(hidden, ids, reward) * self.head.weight.float()).sum(2)

    def _read(self, hidden: torch.Tensor, ids: torch.Tensor, reward: torch.Tensor) -> torch.Tensor:
        """States that the head reads, of hidden [B, L, hidden]: [B, D, hidden], or [B, 1, hidden] for all dimensions."""
        readout = self.prompts.readout
        length = (ids != self.prompts.tokenizer.pad_token_id).sum(1, keepdim=True)  # [B, 1]; padding is on the right
        if readout in ("mean", "mean_but_last"):
            count = length - 1 if readout == "mean_but_last" else length
            counted = torch.arange(ids.shape[1], device=ids.device) < count
            return ((hidden.float() * counted[..., None]).sum(1) / count)[:, None]
        at = length - 1 if readout == "last" else reward.int().argmax(2).T  # [B, D or 1]
        return hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[2])).float()

    def _positions(self, batch: Batch, video: torch.Tensor) -> torch.Tensor:
        rows, length = batch.input_ids.shape
        if self.positions == "plain":
            return torch.arange(length, device=video.device).expand(3, rows, length)
        kinds = video.int() * 2  # Qwen2-VL's code: 0 text, 1 image, 2 video
        return self.qwen.model.get_rope_index(batch.input_ids, kinds, video_grid_thw=batch.grid)[0]

    def prepare_training(self, lora: LoraParams) -> None:
        """Leave trainable: the whole vision tower with its merger, LoRA on the language model, reward tokens, head."""
        from peft import LoraConfig, get_peft_model

        targets = rf".*language_model\..*\.({'|'.join(lora.targets)})"
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0, bias="none")
        self.backbone = get_peft_model(self.backbone, config)  # freezes all but LoRA
        self.qwen.model.visual.requires_grad_(True)

    def merge(self) -> None:
        """Fold LoRA into the weights it adapts."""
        self.backbone = self.backbone.merge_and_unload()

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the model folder; `facts` become video_reward.json. LoRA must be merged."""
        folder.mkdir(parents=True)
        rows = len(self.prompts.tokenizer)
        self.backbone.resize_token_embeddings(rows, mean_resizing=False)
        with torch.no_grad():
            self.backbone.get_input_embeddings().weight[self.prompts.reward_ids] = self.reward_tokens
        self.backbone.save_pretrained(folder)
        self.prompts.tokenizer.save_pretrained(folder)
        save_file({"weight": self.head.weight.detach().contiguous()}, folder / HEAD)
        write_json(folder / FACTS, facts)


def load_video_reward(folder: str | Path) -> tuple[VideoReward, dict[str, Any]]:
    """The model of a folder and its facts; BadInput where it is none, or where its head has never been trained."""
    folder = Path(folder)
    facts = read_facts(folder)
    if not facts["head_trained"]:
        raise BadInput(folder / FACTS, "this head was never trained: its scores would be noise", key="head_trained")
    backbone = load_backbone(folder)
    prompts = PromptBuilder(load_chat(folder), facts["template"], facts["dimensions"], facts["readout"])
    model = VideoReward(backbone, prompts, facts["head"], facts["positions"])
    if facts["frame_plan"]["factor"] != model.patch_shape.factor:
        raise BadInput(folder / FACTS, f"not {model.patch_shape.factor}, the backbone's", key="frame_plan.factor")
    head = load_tensors(folder / HEAD)
    check_tensors(folder / HEAD, head, {"weight": model.head.weight.shape})
    with torch.no_grad():
        model.head.weight.copy_(head["weight"])
        model.reward_tokens.copy_(backbone.get_input_embeddings().weight[prompts.reward_ids])
    return model.eval(), facts


def load_chat(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Qwen2-VL folder or hub id, with its chat template."""
    tokenizer = load_tokenizer(folder)
    check_chat(folder, tokenizer)
    return tokenizer


def load_backbone(folder: str | Path) -> Qwen2VLForConditionalGeneration:
    """A Qwen2-VL folder or hub id, in float32."""
    return load_pretrained(Qwen2VLForConditionalGeneration, folder)
