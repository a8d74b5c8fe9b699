"""Near-duplicate prompts: different prompts that must be on the same side of a split.

Two prompts are near-duplicates by either of two rules.

1. Alike: the Jaccard similarity of their sets of token triples is 4/5 or more. A token is a word or, in a script that is
   written without spaces (UNSPACED: Han, kana, Thai, Khmer and others), a character with its marks. A triple is three
   consecutive tokens; each end of the prompt counts as a token, punctuation and spaces do not. A prompt of N tokens has N
   triples: one changed token is tolerated from 27 tokens on, two in a row from 36, k in a row from 9 (k + 2). Shorter
   prompts that differ in a word are different prompts, as are those of a template.
2. The same words, each as often, in any order, at any length. The articles a, an and the do not count, and English plurals
   match their singulars (the S stemmer of Harman 1991, "How effective is suffixing?"). A run of UNSPACED characters is one
   word here; such prompts also match if they differ only in punctuation and spaces.

Texts are compared without INVISIBLE characters (format characters, variation selectors, fillers), which are removed first,
without case and in form NFKC. Groups are transitive: a chain of near-duplicates is one group. The rules do not detect
paraphrases, simplified against traditional characters, kanji against kana, or spacing in Korean. "A dog chases a cat" and
"a cat chases a dog" differ, but rule 2 groups them.
"""

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from hashlib import sha256

import numpy as np

from components.preferences.similarity import SimilarityJoin
from components.statistics.groups import Groups

ARTICLES = ("a", "an", "the")
# Blocks of scripts without spaces between words: classes ID, CJ and SA of Unicode Standard Annex 14, and Balinese, Javanese.
UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x2FDF),  # Han radicals
    (0x3005, 0x312F),  # iteration mark, kana, bopomofo
    (0x31A0, 0x31FF),  # bopomofo, kana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),  # Han
    (0xA000, 0xA4CF),  # Yi
    (0xA980, 0xA9FF),  # Javanese, Myanmar
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
    (0xF900, 0xFAFF),  # Han
    (0x20000, 0x3FFFF),  # Han
)
# Characters of category Cf or with property Default_Ignorable_Code_Point (Unicode 15.1, DerivedCoreProperties.txt).
INVISIBLE = re.compile(
    "[\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
ASCII_WORD = re.compile(r"\w+")


def near_groups(keys: Sequence[str]) -> list[int]:
    """For each of `keys` (prompts as prompt_key returns them), the index of the first of its group of near-duplicates."""
    groups = Groups(len(keys))
    numbers: dict[str, int] = {}  # token ids, from 1
    text = array("i")  # tokens of all prompts, each prompt between two zeros
    first: dict[bytes, int] = {}
    same = []
    for place, key in enumerate(keys):
        plain = _plain(key)
        in_order = tokens(plain)
        for digest in _same_words(plain, in_order):
            same.append((first.setdefault(digest, place), place))
        text.append(0)
        text.extend([numbers.setdefault(token, len(numbers) + 1) for token in in_order])
        text.append(0)
    if same:
        groups.join(*np.array(same).T)
        del first, same
        SimilarityJoin(*_triples(np.array(text), len(numbers) + 1), groups)
    return groups.firsts(np.arange(len(keys))).tolist()


def words(text: str) -> list[str]:
    """Words of a text in order; a run of UNSPACED characters is one word."""
    return ASCII_WORD.findall(text) if text.isascii() else _patterns()[0].findall(text)


def tokens(text: str) -> list[str]:
    """Words of a text in order; each UNSPACED character is a token."""
    return ASCII_WORD.findall(text) if text.isascii() else _patterns()[1].findall(text)


@lru_cache(1 << 16)
def singular(word: str) -> str:
    """The singular of an English plural, by its spelling; short words are unchanged."""
    if len(word) < 4 or not word.endswith("s") or word.endswith(("us", "ss")):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    return word[:-1]


def _plain(key: str) -> str:
    if key.isascii():
        return key
    visible = unicodedata.normalize("NFKC", INVISIBLE.sub("", key))
    return unicodedata.normalize("NFKC", visible.casefold())


def _same_words(text: str, in_order: list[str]) -> Iterator[bytes]:
    """Digests of a text with its tokens in order; texts with the same words share a digest."""
    found = in_order if text.isascii() else words(text)
    if not found:
        yield _digest("signs", [text])
        return
    bag = sorted(singular(word) for word in found if word not in ARTICLES) or sorted(found)
    yield _digest("bag", bag)
    if not text.isascii():
        yield _digest("order", in_order)


def _digest(kind: str, parts: Iterable[str]) -> bytes:
    return sha256("\n".join([kind, *parts]).encode()).digest()[:16]


def _triples(text: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Members [M] and sizes [N] of the sets of triples, for SimilarityJoin; `text` as in near_groups, of ids below
    `count`."""
    middle = np.flatnonzero(text)  # one triple around every token
    codes = text[middle - 1] * np.int64(count) + text[middle]
    if count**3 >= 2**63:
        codes = np.unique(codes, return_inverse=True)[1]  # fewer values than tokens
    codes *= count
    codes += text[middle + 1]
    prompt = (np.cumsum(text == 0, dtype=np.int32) // 2)[middle]
    prompts = np.count_nonzero(text == 0) // 2
    del middle
    order = np.argsort(codes)
    codes = codes[order]
    number = np.cumsum(np.diff(codes, prepend=codes[:1]) != 0, dtype=np.int32)
    del codes
    member = np.empty_like(number)
    member[order] = number
    del order
    kinds = int(number[-1]) + 1 if len(number) else 1
    entries = prompt * np.int64(kinds) + member
    entries.sort()
    entries = entries[np.diff(entries, prepend=-1) != 0]  # a triple that occurs twice in a prompt
    return (entries % kinds).astype(np.int32), np.bincount(entries // kinds, minlength=prompts)


@cache
def _patterns() -> tuple[re.Pattern, re.Pattern]:
    """Patterns of `words` and `tokens` for non-ASCII text: Python's \\w lacks combining marks."""
    marks = "".join(f"{chr(start)}-{chr(end)}" for start, end in _mark_ranges())
    unspaced = "".join(f"{chr(start)}-{chr(end)}" for start, end in UNSPACED)
    word = rf"(?:[^\W{unspaced}][{marks}]*)+"
    character = rf"(?!\W)[{unspaced}][{marks}]*"
    return re.compile(rf"(?:{character})+|{word}"), re.compile(rf"{character}|{word}")


def _mark_ranges() -> Iterator[tuple[int, int]]:
    """Code points of combining marks, first and last of each range; ranges match several times faster than single ones."""
    mark = np.array([unicodedata.category(chr(point)).startswith("M") for point in range(0x20000)])
    edges = np.flatnonzero(np.diff(mark, prepend=False, append=False))
    yield from zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True)
