"""docs/assets/base-and-dpo.gif: the first evaluation prompts of a finished demo, base beside a method, seed 0, unselected.

python docs/make_gif.py
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from components.files.tables import read_table
from components.methods import METHODS
from components.video.decode import probe, read_frames

SIDE = 128  # pixels of a clip, enlarged without smoothing: its own are 32
TOP, CAPTION, GAP = 16, 28, 8  # names of the methods, the prompt below a pair, space between pairs
INK, PAPER = (30, 30, 30), (255, 255, 255)


def make(samples: Path, out: Path, method: str = "dpo", count: int = 4) -> None:
    """Write the GIF of the first `count` prompts of `samples` (data/samples). Clips of both are of one length and rate."""
    rows = [row for row in read_table(samples / "base/samples.parquet") if row["seed"] == 0][:count]
    pairs = [[read_frames(samples / name / row["path"]) for name in ("base", method)] for row in rows]
    frames = len(pairs[0][0])
    width, height = count * (2 * SIDE + GAP) - GAP, TOP + SIDE + CAPTION
    font = ImageFont.load_default(11)
    pages = []
    for at in range(frames):
        page = Image.new("RGB", (width, height), PAPER)
        pen = ImageDraw.Draw(page)
        for place, (row, clips) in enumerate(zip(rows, pairs, strict=True)):
            left = place * (2 * SIDE + GAP)
            for column, (name, clip) in enumerate(zip(("base", method), clips, strict=True)):
                page.paste(
                    Image.fromarray(np.asarray(clip[at])).resize((SIDE, SIDE), Image.NEAREST), (left + column * SIDE, TOP)
                )
                pen.text((left + column * SIDE + 2, 1), METHODS[name].title, INK, font)
            pen.text((left + 2, TOP + SIDE + 2), "\n".join(wrapped(row["prompt"])), INK, font)
        pages.append(page.quantize(64))
    rate = probe(samples / "base" / rows[0]["path"]).fps
    out.parent.mkdir(parents=True, exist_ok=True)
    pages[0].save(out, save_all=True, append_images=pages[1:], duration=round(1000 / rate), loop=0, optimize=True)


def wrapped(prompt: str, longest: int = 42) -> list[str]:
    """The prompt in lines that fit below a pair."""
    lines = [""]
    for word in prompt.split():
        if len(lines[-1]) + len(word) > longest:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


if __name__ == "__main__":
    place = Path("docs/assets/base-and-dpo.gif")
    make(Path("data/samples"), place)
    print(f"{place} written")
