"""VideoReward: a vision-language model with a linear head, read out at one special token a dimension (paper section 3.2), or
otherwise (prompt.py, `Readout`).

The folder of a model holds a complete backbone (config.json, model.safetensors with LoRA merged and the reward tokens'
embeddings in place, tokenizer), `head.safetensors`, and `video_reward.json` with all that scoring must know:
dimensions, dtype, frame plan, template, positions, normalisation, tie thresholds, where it came from.

Weights of the backbone are in the model's dtype. Those that train are float32 until `merge`; head and losses always are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from components.config.params import LoraParams
from components.config.types import Dtype
from components.errors import BadInput
from components.reward.backbones.protocol import Backbone, Positions
from components.reward.backbones.registry import load_backbone
from components.reward.card import CARD, RewardCard, read_card, write_card
from components.reward.inputs import Batch, Input, PatchShape, collate
from components.reward.prompt import PromptBuilder, check_chat
from components.runtime.weights import check_tensors, load_tensors, load_tokenizer

HEAD = "head.safetensors"


class VideoReward(nn.Module):
    """Scores r_d(video, prompt), one a dimension, of any scale.

    network: that of `backbone`, with PEFT's wrapper around it while LoRA trains.
    head: no bias. One output row is shared by all dimensions, as in the published model; with as many rows as
        dimensions each has its own, which a read-out at one place for all of them needs.
    positions: "plain" numbers the tokens 0..L-1, as the published model does; "multimodal" is the backbone's own numbering
        of a video's tokens. A model scores with what it was trained with.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompts: PromptBuilder,
        head: Literal["shared", "per_dimension"],
        positions: Positions,
    ):
        super().__init__()
        self.backbone = backbone
        self.network: Any = backbone.network
        self.prompts = prompts
        self.positions: Positions = positions
        self._no_split_modules = backbone.fsdp_classes  # accelerate reads it
        hidden = backbone.hidden_size
        # The new tokens are parameters of their own, so that training them needs no gradient, no optimizer state and
        # no restoring of the whole embedding. They start near the mean token, as resizing the embedding would put them.
        table = backbone.network.get_input_embeddings().weight.detach().float()
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(len(prompts.reward_ids), hidden, generator=generator) * float(table.std())
        self.reward_tokens = nn.Parameter(table.mean(0) + noise)
        self.head = nn.Linear(hidden, 1 if head == "shared" else len(prompts.dimensions), bias=False)
        nn.init.normal_(self.head.weight, std=hidden**-0.5, generator=generator)

    @property
    def patch_shape(self) -> PatchShape:
        return self.backbone.patch_shape

    def batch(self, inputs: Sequence[Input]) -> Batch:
        """Inputs of any length and size as one forward pass takes them."""
        return collate(inputs, self.patch_shape, self.backbone.pixels, self.prompts.tokenizer.pad_token_id)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw scores [B, D] in float32."""
        ids = batch.input_ids
        video = ids == self.prompts.video_id
        # Ids of reward tokens may lie beyond the embedding's rows: they are looked up as 0 and replaced.
        reward = ids == ids.new_tensor(self.prompts.reward_ids)[:, None, None]  # [tokens, B, L]
        embedded = self.backbone.embed_tokens(ids.masked_fill(reward.any(0), 0))
        features = self.backbone.embed_video(batch)
        embedded = embedded.masked_scatter(video[..., None], features.tokens.to(embedded.dtype))
        tokens = torch.einsum("dbl,dh->blh", reward.to(embedded), self.reward_tokens.to(embedded))
        embedded = torch.where(reward.any(0)[..., None], tokens, embedded)
        positions = self.backbone.positions(batch, video, self.positions)
        hidden = self.backbone.hidden_states(embedded, positions, video, features)
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

    def vision_parameters(self) -> list[nn.Parameter]:
        """Of the whole vision tower with its merger."""
        named = self.backbone.network.named_parameters()
        return [parameter for name, parameter in named if name.startswith(self.backbone.vision)]

    def prepare_training(self, lora: LoraParams) -> None:
        """Leave trainable, in float32: the whole vision tower with its merger, LoRA on the language model, reward tokens,
        head."""
        from peft import LoraConfig, get_peft_model

        targets = rf"{self.backbone.adapted}\.({'|'.join(lora.targets)})"
        alpha: Any = lora.alpha  # a float, where PEFT's annotation has an integer
        config = LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0, bias="none")
        self.network = get_peft_model(self.backbone.network, config)  # changes it in place, freezes all but LoRA
        for parameter in self.vision_parameters():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)

    def merge(self, dtype: Dtype = "float32") -> None:
        """Fold LoRA into the weights it adapts; all are then in the dtype in which the model scores. Buffers, which hold
        the frequencies of positions, stay in float32, as a loaded model has them."""
        self.network = self.network.merge_and_unload()
        for parameter in self.network.parameters():
            parameter.data = parameter.data.to(getattr(torch, dtype))

    def save(self, folder: Path, card: RewardCard) -> None:
        """Write the model folder. LoRA must be merged."""
        folder.mkdir(parents=True)
        network = self.backbone.network
        network.resize_token_embeddings(len(self.prompts.tokenizer), mean_resizing=False)
        with torch.no_grad():
            table = network.get_input_embeddings().weight
            table[self.prompts.reward_ids] = self.reward_tokens.to(table.dtype)
        network.save_pretrained(folder)
        self.prompts.tokenizer.save_pretrained(folder)
        save_file({"weight": self.head.weight.detach().contiguous()}, folder / HEAD)
        write_card(folder, card)


def load_video_reward(folder: str | Path, dtype: Dtype | None = None) -> tuple[VideoReward, RewardCard]:
    """The model of a folder, by default in its card's dtype, and its card; BadInput where it is none, or where its head has
    never been trained."""
    folder = Path(folder)
    card = read_card(folder)
    if not card.head_trained:
        raise BadInput(folder / CARD, "this head was never trained: its scores would be noise", key="head_trained")
    backbone = load_backbone(folder, dtype or card.dtype)
    tokenizer = load_chat(folder, backbone)
    prompts = PromptBuilder(tokenizer, backbone.video_token, card.template, card.dimensions, card.readout)
    model = VideoReward(backbone, prompts, card.head, card.positions)
    if card.frame_plan.factor != model.patch_shape.factor:
        raise BadInput(folder / CARD, f"not {model.patch_shape.factor}, the backbone's", key="frame_plan.factor")
    head = load_tensors(folder / HEAD)
    check_tensors(folder / HEAD, head, {"weight": model.head.weight.shape})
    with torch.no_grad():
        model.head.weight.copy_(head["weight"])
        model.reward_tokens.copy_(backbone.network.get_input_embeddings().weight[prompts.reward_ids])
    return model.eval(), card


def load_chat(folder: str | Path, backbone: Backbone) -> PreTrainedTokenizerBase:
    """The tokenizer of a backbone's folder, with its chat template."""
    tokenizer = load_tokenizer(folder)
    check_chat(folder, tokenizer, backbone.video_token)
    return tokenizer
