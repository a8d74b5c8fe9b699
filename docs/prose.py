"""How a page reads: sentences, words a sentence, share of sentences in the passive, and Flesch-Kincaid grade.

    .venv-docs/bin/python docs/prose.py README.md docs/**/*.md

Code, tables, headings, links' addresses and comments are left out. The passive is a form of "be" followed by a participle:
the share is a rough one.
"""

import re
import sys
from pathlib import Path

PASSIVE = re.compile(
    r"\b(?:is|are|was|were|be|been|being)\s+(?:\w+ly\s+|not\s+)?(?:\w+ed|made|drawn|kept|held|given|taken|read|written|shown|known|found|"
    r"told|said|left|run|built|seen|chosen|sent)\b"
)
LONGEST = 25  # words a sentence, docs/style.md


def sentences_of(text: str) -> list[str]:
    """The sentences of a Markdown page's paragraphs and list items."""
    text = re.sub(r"(?ms)^\s*(```|~~~).*?^\s*\1\s*$|<!--.*?-->", "\n", text)
    kept = [line for line in text.splitlines() if not re.match(r"\s*(#|\||!|:::|options:)", line)]
    text = re.sub(r"(?m)^\s*(?:[-*]|\d+\.)\s+", "\n\n", "\n".join(kept))
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "code", text).replace("*", "")
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    found = [sentence for paragraph in paragraphs for sentence in re.split(r"(?<=[.?!:;])\s+(?=[A-Z`(])", paragraph)]
    return [sentence for sentence in found if len(sentence.split()) > 2]


def flesch_kincaid(sentences: list[str]) -> float:
    """The grade of Kincaid et al. (1975); syllables by pyphen, which finds a few less than a dictionary has."""
    import pyphen

    hyphens = pyphen.Pyphen(lang="en_GB")
    words = [word for sentence in sentences for word in re.findall(r"[A-Za-z']+", sentence)]
    syllables = sum(hyphens.inserted(word).count("-") + 1 for word in words)
    return 0.39 * len(words) / len(sentences) + 11.8 * syllables / len(words) - 15.59


def main() -> None:
    print(f"{'page':<44} lines  sentences  words each  over {LONGEST}  passive  grade")
    for name in sys.argv[1:]:
        text = Path(name).read_text()
        found = sentences_of(text)
        words = [len(sentence.split()) for sentence in found]
        passive = sum(bool(PASSIVE.search(sentence)) for sentence in found)
        grade = flesch_kincaid(found) if found else 0.0
        share = 100 * passive / max(len(found), 1)
        print(
            f"{name:<44} {len(text.splitlines()):>5}  {len(found):>9}  {sum(words) / max(len(words), 1):>10.1f}  "
            f"{sum(count > LONGEST for count in words):>7}  {share:>6.0f}%  {grade:>5.1f}"
        )


if __name__ == "__main__":
    main()
