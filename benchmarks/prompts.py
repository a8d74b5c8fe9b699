"""Near-duplicate prompts: time of grouping, and the share of changed prompts that is found.

    python benchmarks/prompts.py speed --prompts 200000 --kind text        one kind of KINDS
    python benchmarks/prompts.py found                                     300 prompts a row, each with one word changed

Kinds: `text` are words with natural frequencies, 20 to 120 a prompt; `zh` the same of Chinese characters; `suffix` 3 to 14
words before 20 shared ones; `both` 1 to 11 words between 20 and 20 shared ones; `one` a unique word among 22 shared ones;
`slots` a template of 24 words, `long` one of 47, with three slots; `copies` 20 of each prompt, with one word changed.
"""

import resource
import time
from typing import Annotated

import numpy as np
import typer

from components.preferences.near import near_groups
from components.preferences.split import prompt_key

app = typer.Typer(help=__doc__, add_completion=False)
BEGIN, END = (" ".join(f"{name}{place}" for place in range(20)) for name in ("begin", "end"))
HAN, KANA, THAI, HANGUL = (0x4E00, 3000), (0x3042, 80), (0x0E01, 46), (0xAC00, 2000)


class Text:
    """Words sampled by Zipf's law."""

    def __init__(self, words: list[str]):
        self.rng = np.random.default_rng(0)
        self.words = np.array(words)
        shares = 1 / np.arange(1, len(words) + 1)
        self.cumulated = np.cumsum(shares / shares.sum())

    def draw(self, least: int, most: int) -> list[str]:
        places = np.searchsorted(self.cumulated, self.rng.random(self.rng.integers(least, most + 1)))
        return self.words[places.clip(0, len(self.words) - 1)].tolist()


def english() -> Text:
    return Text([f"word{number}" for number in range(20000)])


def prompts_of(kind: str, count: int) -> list[str]:
    text = Text([chr(0x4E00 + number) for number in range(3000)]) if kind == "zh" else english()
    side = round(count ** (1 / 3)) + 1
    places = [(n % side, n // side % side, n // side**2) for n in range(count)]
    if kind == "text":
        return [" ".join(text.draw(20, 120)) for _ in range(count)]
    if kind == "zh":
        return ["".join(text.draw(20, 120)) for _ in range(count)]
    if kind == "suffix":
        return [f"{' '.join(text.draw(3, 14))} {END}" for _ in range(count)]
    if kind == "both":
        return [f"{BEGIN} {' '.join(text.draw(1, 11))} {END}" for _ in range(count)]
    if kind == "one":
        half, other = BEGIN.split()[:11], END.split()[:11]
        return [" ".join([*half, f"thing{n}", *other]) for n in range(count)]
    if kind == "slots":
        rest = " ".join(END.split()[:6])
        return [
            f"a video of thing{a} in the style of people{b} who now look at colour{c} before they leave it {rest}"
            for a, b, c in places
        ]
    if kind == "long":
        return [f"{BEGIN} thing{a} in the {b} of colour{c} {END}" for a, b, c in places]
    if kind == "copies":
        made = []
        for _ in range(count // 20):
            words = text.draw(60, 60)
            for _ in range(20):
                place = int(text.rng.integers(60))
                made.append(" ".join([*words[:place], f"new{len(made)}", *words[place + 1 :]]))
        return made
    raise typer.BadParameter(f"no such kind: {kind}")


@app.command()
def speed(kind: Annotated[str, typer.Option()] = "text", prompts: Annotated[int, typer.Option(min=20)] = 200_000) -> None:
    """CPU seconds, peak memory of this process and number of groups."""
    keys = list(dict.fromkeys(map(prompt_key, prompts_of(kind, prompts))))
    before = time.process_time()
    groups = near_groups(keys)
    seconds = time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    typer.echo(f"{kind}: {len(keys)} prompts, {len(set(groups))} groups, {seconds:.1f} s, {peak:.0f} MB")


@app.command()
def found(prompts: Annotated[int, typer.Option(min=1)] = 300) -> None:
    """Share of prompts with one changed word that are found, and number of different prompts grouped wrongly."""
    rng = np.random.default_rng(1)

    def script(start: int, size: int) -> Text:
        return Text(["".join(map(chr, start + rng.integers(0, size, 1 + n % 3))) for n in range(3000)])

    kinds = {
        "English, 40 to 100 words": (english(), " ", 40, 100),
        "English, 27 to 40 words": (english(), " ", 27, 40),
        "English, 9 to 26 words": (english(), " ", 9, 26),
        "English, 3 to 8 words": (english(), " ", 3, 8),
        "Chinese, 30 to 70 words of 1 to 3 characters": (script(*HAN), "", 30, 70),
        "Chinese, 18 to 30 words": (script(*HAN), "", 18, 30),
        "Chinese, 3 to 10 words": (script(*HAN), "", 3, 10),
        "Japanese, 30 to 70 words": (Text([*script(*HAN).words[:1500], *script(*KANA).words[:1500]]), "", 30, 70),
        "Thai, 30 to 70 words": (script(*THAI), "", 30, 70),
        "Korean, 27 to 70 words": (script(*HANGUL), " ", 27, 70),
        "Chinese with English, 30 to 70 words": (
            Text([*script(*HAN).words[:300], *map("word{}".format, range(300))]),
            " ",
            30,
            70,
        ),
    }
    for name, (text, space, least, most) in kinds.items():
        keys = []
        for _ in range(prompts):
            words = text.draw(least, most)
            other = list(words)
            other[int(rng.integers(len(words)))] = str(rng.choice(text.words))
            keys += [prompt_key(space.join(words)), prompt_key(space.join(other))]
        groups = np.array(near_groups(keys))
        share = (groups[::2] == groups[1::2]).mean()
        wrong = prompts - len(set(groups[::2]))
        typer.echo(f"{name}: {share:.1%} found, {wrong} of {prompts} grouped with another prompt")


if __name__ == "__main__":
    app()
