"""The text around a video: a template, its reward tokens, and the placeholder that holds the video.

Token order is the paper's (section 3.2): video, VQ, MQ, prompt, TA. Attention is causal, so what stands before the
prompt cannot depend on it: the template alone keeps the prompt from VQ and MQ, no mask does.

Where scores are read is a choice (`Readout`), and the template follows it. Always `{text_prompt}` once; besides

    special          <|NAME_reward|> once for each dimension, in the order of the dimensions: a place a dimension
    single_special   <|reward|> once: one place for all of them, "separate tokens" off
    last, mean       nothing: the last token, or the mean over all; tokens of dimensions may stand there and are trained
    mean_but_last    as mean, without the last token: what the reference implementation calls "mean"

Only the first can keep the prompt from a dimension. The files in templates/ are ours (single/ and plain/ are apart because
the tokenizer of the frozen stage pretrain_vlm learns from the others); the published model's comes from the user.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from components.errors import BadInput
from components.files.text import read_text

TEMPLATES = Path(__file__).parent / "templates"
PROMPT = "{text_prompt}"
SINGLE_TOKEN = "<|reward|>"
KEPT = 1024  # prompts whose token ids are kept, as each comes with many clips of like length,
LONGEST_KEPT = 2000  # if they have no more characters: a server's memory is not for strangers to fill

Readout = Literal["special", "single_special", "last", "mean", "mean_but_last"]


def reward_token(dimension: str) -> str:
    return f"<|{dimension}_reward|>"


def tokens_read(dimensions: list[str], readout: Readout) -> list[str]:
    """The special token at which each dimension is read; none at all where the read-out needs none."""
    if readout == "single_special":
        return [SINGLE_TOKEN] * len(dimensions)
    return [reward_token(dimension) for dimension in dimensions] if readout == "special" else []


def read_template(path: str | Path, dimensions: list[str], readout: Readout) -> str:
    """The text of a template file; BadInput where it does not fit dimensions and read-out."""
    path = Path(path)
    if not path.exists():
        raise BadInput(path, "missing: the prompt template that params.yaml names")
    template = read_text(path)
    check_template(path, template, dimensions, readout)
    return template


def check_template(path: Path, template: str, dimensions: list[str], readout: Readout) -> None:
    """BadInput where the template that stands in the file `path` does not fit dimensions and read-out."""
    tokens = tokens_read(dimensions, readout)
    for mark in dict.fromkeys([PROMPT, *tokens]):
        if template.count(mark) != 1:
            raise BadInput(path, f"{mark} must stand in it once, and does {template.count(mark)} times")
    places = [template.index(token) for token in tokens]
    if places != sorted(places):
        raise BadInput(path, f"its reward tokens must stand in the order {', '.join(dimensions)}")


class PromptBuilder:
    """Token ids of a whole input: chat frame, video placeholder repeated, template with the user's prompt.

    Adds the template's reward tokens to `tokenizer`, the backbone's, where it lacks them; `reward_ids` are their ids.
    `video_token` is the backbone's placeholder of a video.
    """

    def __init__(self, tokenizer: Any, video_token: str, template: str, dimensions: list[str], readout: Readout):
        self.tokenizer = tokenizer
        self.template = template
        self.dimensions = dimensions
        self.readout: Readout = readout
        held = [token for token in map(reward_token, dimensions) if token in template]
        tokens = list(dict.fromkeys(tokens_read(dimensions, readout) or held))
        tokenizer.add_tokens(tokens, special_tokens=True)
        self.special = set(tokenizer.get_added_vocab())
        self.reward_ids: list[int] = tokenizer.convert_tokens_to_ids(tokens)
        self.video_token = video_token
        self.video_id: int = tokenizer.convert_tokens_to_ids(video_token)
        self._text_ids = lru_cache(maxsize=KEPT)(self._encode)

    def ids(self, prompt: str, video_tokens: int, video: str | None = None) -> list[int]:
        """Token ids for a prompt and a video of `video_tokens` tokens. `video`: the text that stands for it, in which the
        video tokens share these out evenly; by default one of them.

        ValueError for an empty prompt, and for one that holds a special token: it could move the read-out.
        """
        text = video or self.video_token
        ids = self._text_ids(prompt, text) if len(prompt) <= LONGEST_KEPT else self._encode(prompt, text)
        each, left_over = divmod(video_tokens, text.count(self.video_token))
        assert not left_over, f"{video_tokens} tokens in {text}"
        return [token for known in ids for token in ([known] * each if known == self.video_id else [known])]

    def before_prompt(self) -> list[str]:
        """Dimensions that are read out before the prompt, and so may not depend on it."""
        prompt = self.template.index(PROMPT)
        places = [self.template.index(token) for token in tokens_read(self.dimensions, self.readout)]
        return [name for name, place in zip(self.dimensions, places, strict=False) if place < prompt]

    def _encode(self, prompt: str, video: str) -> list[int]:
        if not prompt.strip():
            raise ValueError("the prompt is empty")
        for token in self.special:
            if token in prompt:
                raise ValueError(f"the prompt holds the special token {token}")
        text = self.template.replace(PROMPT, prompt)
        chat = chat_text(self.tokenizer, text).replace(self.video_token, video, 1)
        return self.tokenizer(chat, add_special_tokens=False)["input_ids"]


def chat_text(tokenizer: Any, text: str) -> str:
    """One user turn of a video and `text`, in the chat format that came with the tokenizer."""
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}
    return tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)


def check_chat(folder: str | Path, tokenizer: Any, video_token: str) -> None:
    """BadInput where the chat template that came with a tokenizer cannot be filled in, or loses the video or the text, and
    where the tokenizer has no such placeholder: without its files transformers makes an empty one."""
    try:
        chat = chat_text(tokenizer, PROMPT)
    except (TemplateError, ValueError, TypeError) as error:  # what a damaged template raises, and none at all
        (first, *_) = str(error).splitlines() or [type(error).__name__]
        raise BadInput(folder, f"no chat template of use: {first}", key="chat_template") from error
    for mark in (video_token, PROMPT):
        if chat.count(mark) != 1:
            why = f"gives {chat.count(mark)} {mark} for a turn of one video and one text"
            raise BadInput(folder, why, key="chat_template")
    known = tokenizer(chat, add_special_tokens=False)["input_ids"].count(tokenizer.convert_tokens_to_ids(video_token))
    if known != 1:
        raise BadInput(folder, f"its tokenizer has no token {video_token}: is tokenizer.json missing, or another model's?")
