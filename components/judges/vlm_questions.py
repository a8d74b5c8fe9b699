"""Messages of a judge `vlm:NAME`, and the strict reading of answers. What cannot be read is no verdict but a reason.

A template is text with `{prompt}`, `{questions}` (pairwise) or `{question}` (pointwise), and marks where clips go: `<first>`
and `<second>`, or `<video>`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.errors import BadInput

PAIRWISE_MARKS, POINTWISE_MARKS = ("<first>", "<second>"), ("<video>",)
POINTS = {"first": 1.0, "second": 0.0, "same": 0.5}  # of the clip shown first
READABLE = 0.5  # least probability of Yes and No together
LEAST = 1e-9  # probability that log-odds still tell apart
THOUGHT = re.compile(r".*</think>", re.DOTALL)

PAIRWISE = """Two videos were generated for the same text prompt. Compare them.

Prompt: {prompt}

First video:
<first>
Second video:
<second>
Questions:
{questions}

Look at all frames of both videos. You may reason first. Then end with one line for each question, in this order, and write \
nothing after them. A line is the name of the question, a colon, and one word: first, second or same.
"""
POINTWISE = """A video was generated for a text prompt.

Prompt: {prompt}

Video:
<video>
{question} Answer with one word: Yes or No.
"""
COMPARED = {
    "VQ": "Which video has the better visual quality: sharper, more detailed, with fewer artefacts and distortions?",
    "MQ": "Which video has the better motion: smoother, more natural, physically more plausible?",
    "TA": "Which video follows the prompt better: its subjects, attributes, actions and setting?",
    "Overall": "Which video is better overall?",
}
RATED = {
    "VQ": "Is the visual quality of this video high: sharp, detailed, free of artefacts and distortions?",
    "MQ": "Is the motion in this video good: smooth, natural, physically plausible?",
    "TA": "Does this video follow the prompt: its subjects, attributes, actions and setting?",
    "Overall": "Is this a good video for the prompt, all in all?",
}


class Unreadable(Exception):
    """An answer that has no verdict."""


@dataclass(frozen=True)
class Answer:
    """What a model answered. text; finish: why it ended; first_token: log-probabilities of the likeliest first tokens, where
    they were requested; tokens_in, tokens_out: 0 where the server counts none."""

    text: str
    finish: str | None
    first_token: dict[str, float] | None
    tokens_in: int
    tokens_out: int


def check_template(template: str, marks: Sequence[str], fields: Sequence[str], where: object) -> str:
    """The template; BadInput where a mark or field is missing or a mark is there twice."""
    for part in (*marks, *fields):
        if template.count(part) != 1:
            raise BadInput(str(where), f"has {part} {template.count(part)} times, not once", key="template")
    return template


def parts_of(template: str, marks: Sequence[str], fields: Mapping[str, str]) -> list[str]:
    """Texts and marks in turn, text first, fields filled in. A prompt with a mark or field in it changes nothing."""
    pieces = re.split("(" + "|".join(map(re.escape, marks)) + ")", template)
    known = re.compile("|".join(re.escape(field) for field in fields))
    pieces[::2] = [known.sub(lambda found: fields[found[0]], text) for text in pieces[::2]]
    return pieces


def read_points(answer: Answer, dimensions: Sequence[str]) -> dict[str, float]:
    """Points of the clip shown first, by dimension. Unreadable unless the answer ends with exactly one line a dimension, in
    order, and has no other such line."""
    if answer.finish == "length":
        raise Unreadable("the answer is cut off at max_tokens")
    lines = [line.strip() for line in THOUGHT.sub("", answer.text).splitlines() if line.strip()]
    verdict = re.compile(rf"({'|'.join(dimensions)})\s*:\s*(\w+)", re.IGNORECASE)
    found = [verdict.fullmatch(line) for line in lines]
    names = {name.casefold(): name for name in dimensions}
    said = [(names[line[1].casefold()], line[2].casefold()) for line in found if line is not None]
    if [name for name, _ in said] != list(dimensions) or not all(found[-len(dimensions) :]):
        raise Unreadable(
            f"the answer does not end with one line for each of {', '.join(dimensions)}: {excerpt(answer.text)}"
        )
    for name, word in said:
        if word not in POINTS:
            raise Unreadable(f"'{name}: {word}' is not {', '.join(POINTS)}")
    return {name: POINTS[word] for name, word in said}


def read_log_odds(answer: Answer) -> float:
    """Log-odds of Yes against No at the first token of the answer. A word that is not among the likeliest tokens has at most
    the probability of the least of them, and of what they leave: that is taken. Unreadable where there are no
    log-probabilities, or the two words have less than half of the probability."""
    if not answer.first_token:
        raise Unreadable("the answer has no log-probabilities: does the server support logprobs?")
    chance = {"yes": 0.0, "no": 0.0}
    for token, logprob in answer.first_token.items():
        word = token.strip().casefold()
        if word in chance:
            chance[word] += math.exp(logprob)
    if sum(chance.values()) < READABLE:
        raise Unreadable(f"Yes and No have {sum(chance.values()):.2f} of the probability: {excerpt(answer.text)}")
    listed = [math.exp(logprob) for logprob in answer.first_token.values()]
    most = max(min(*listed, 1 - sum(listed)), LEAST)
    yes, no = (max(value or most, LEAST) for value in chance.values())
    return math.log(yes) - math.log(no)


def excerpt(text: str, most: int = 80) -> str:
    """The end of a text in one line, for a reason."""
    line = " ".join(text.split())
    return repr(line if len(line) <= most else f"...{line[-most:]}")
