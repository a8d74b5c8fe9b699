"""The text around a video: a template, one special token a dimension, and the placeholder that holds the video.

Token order is the paper's (section 3.2): video, VQ, MQ, prompt, TA. Attention is causal, so what stands before the
prompt cannot depend on it: the template alone keeps the prompt from VQ and MQ, no mask does.

A template is a text file with `{text_prompt}` once and `<|NAME_reward|>` once for each dimension, in the order of the
dimensions. The files in templates/ are ours; the published model's comes from a file that the user gives.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

from components.errors import BadInput

PROMPT = "{text_prompt}"
VIDEO = "<|video_pad|>"


def reward_token(dimension: str) -> str:
    return f"<|{dimension}_reward|>"


def read_template(path: str | Path, dimensions: list[str]) -> str:
    """The text of a template file; BadInput where it does not fit the dimensions."""
    path = Path(path)
    if not path.exists():
        raise BadInput(path, "missing: the prompt template that params.yaml names")
    template = path.read_text()
    for mark in [PROMPT, *map(reward_token, dimensions)]:
        if template.count(mark) != 1:
            raise BadInput(path, f"{mark} must stand in it once, and does {template.count(mark)} times")
    places = [template.index(reward_token(dimension)) for dimension in dimensions]
    if places != sorted(places):
        raise BadInput(path, f"its reward tokens must stand in the order {', '.join(dimensions)}")
    return template


class PromptBuilder:
    """Token ids of a whole input: chat frame, video placeholder repeated, template with the user's prompt.

    Adds the reward tokens to `tokenizer` (a Qwen2-VL one) where it lacks them; `reward_ids` are their ids.
    """

    def __init__(self, tokenizer: Any, template: str, dimensions: list[str]):
        self.tokenizer = tokenizer
        self.template = template
        tokens = [reward_token(dimension) for dimension in dimensions]
        tokenizer.add_tokens(tokens, special_tokens=True)
        self.special = set(tokenizer.get_added_vocab())
        self.reward_ids: list[int] = tokenizer.convert_tokens_to_ids(tokens)
        self.video_id: int = tokenizer.convert_tokens_to_ids(VIDEO)
        self._text_ids = lru_cache(maxsize=4096)(self._encode)

    def ids(self, prompt: str, video_tokens: int) -> list[int]:
        """Token ids for a prompt and a video of `video_tokens` tokens.

        ValueError for an empty prompt, and for one that holds a special token: it could move the read-out.
        """
        ids = self._text_ids(prompt)
        at = ids.index(self.video_id)
        return [*ids[:at], *[self.video_id] * video_tokens, *ids[at + 1 :]]

    def _encode(self, prompt: str) -> list[int]:
        if not prompt.strip():
            raise ValueError("the prompt is empty")
        for token in self.special:
            if token in prompt:
                raise ValueError(f"the prompt holds the special token {token}")
        text = self.template.replace(PROMPT, prompt)
        return self.tokenizer(chat_text(self.tokenizer, text), add_special_tokens=False)["input_ids"]


def chat_text(tokenizer: Any, text: str) -> str:
    """One user turn of a video and `text`, in the chat format that came with the tokenizer."""
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}
    return tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
