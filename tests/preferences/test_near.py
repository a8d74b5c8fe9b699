"""Near-duplicate prompts in any script, found exactly, and nothing else taken for one."""

import csv
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from components.preferences import similarity
from components.preferences.near import near_groups, tokens
from components.preferences.split import SPLITS, prompt_key, split_prompts
from components.simulation.world import all_scenes, prompt_of
from tests.preferences.near import near_and_far, plain_groups
from tests.preferences.test_split import DEAL, HASH

SHARED = Path(__file__).parents[3] / "shared/data"


@pytest.mark.parametrize("short", [2, 32])
@given(prompts=near_and_far())
@settings(deadline=None)
def test_groups_are_those_of_comparing_all_with_all(short, prompts):
    keys = sorted({prompt_key(prompt) for prompt in prompts})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "SHORT", short)  # every list is long: each is a part of its own
        assert near_groups(keys) == plain_groups(keys)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("short", [2, 32])
def test_templates_are_grouped_as_comparing_all_with_all_does(monkeypatch, seed, short):
    """Frames that all share, slots of one to three words, from which a prompt takes one value each."""
    monkeypatch.setattr(similarity, "SHORT", short)
    rng = np.random.default_rng(seed)
    slots = [
        [" ".join(f"s{slot}v{value}{word}" for word in range(rng.integers(1, 4))) for value in range(5)] for slot in range(3)
    ]
    gaps = [" ".join(f"g{gap}w{word}" for word in range(rng.integers(0, 12))) for gap in range(4)]
    keys = [
        gaps[0] + "".join(f" {rng.choice(slot)} {gap}" for slot, gap in zip(slots, gaps[1:], strict=True)) for _ in range(60)
    ]
    assert near_groups(keys) == plain_groups(keys)


@given(prompts=near_and_far())
@settings(deadline=None)
def test_no_near_duplicate_crosses(prompts):
    keys = sorted({prompt_key(prompt) for prompt in prompts})
    groups = plain_groups(keys)
    for scheme in (HASH, DEAL):
        split = split_prompts(keys, scheme)
        sides = {(group, split[key]) for group, key in zip(groups, keys, strict=True)}
        assert len(sides) == len(set(groups))
    assert set(split.values()) <= set(SPLITS)


ENGLISH = (
    "the quick brown fox of the old forest jumps over one lazy dog near a wide river while small birds sing high above "
    "them in bright warm morning light"
)
CHINESE = "一只戴着红色帽子的小猫坐在窗边的木桌上看着外面飘落的雪花房间里的壁炉燃烧着温暖的火光镜头缓慢地推进"
JAPANESE = "夕暮れの海辺を白い犬がゆっくりと走り波が足元に寄せては返す空には赤い雲が広がり遠くに船が見える静かな映像である"
THAI = "แมวสีขาวตัวหนึ่งนั่งอยู่บนโต๊ะไม้ริมหน้าต่างมองดูฝนที่ตกลงมาอย่างช้าๆในสวนดอกไม้หลังบ้านตอนเย็น"
KHMER = "ឆ្មាពណ៌សមួយក្បាលកំពុងអង្គុយលើតុឈើក្បែរបង្អួចមើលភ្លៀងធ្លាក់យឺតៗនៅក្នុងសួនច្បារខាងក្រោយផ្ទះនាពេលល្ងាច"


@pytest.mark.parametrize(
    ("prompt", "word", "other"),
    [
        (ENGLISH, "river", "lake"),
        (CHINESE, "木桌", "地毯"),
        (JAPANESE, "犬", "猫"),
        (THAI, "โต๊ะ", "เก้าอี้"),
        (KHMER, "តុ", "គ្រែ"),
        (f"{ENGLISH}, {CHINESE}", "木桌", "地毯"),
        (f"{ENGLISH}, {CHINESE}", "lazy dog", "young cat"),
    ],
)
def test_a_long_prompt_with_another_word_is_near_in_every_script(prompt, word, other):
    assert word in prompt
    assert near_groups([prompt_key(prompt), prompt_key(prompt.replace(word, other))]) == [0, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a cat", "A  cat!"),
        ("a red circle moving slowly to the left", "A red circle slowly moving to left."),
        ("a cat on the grass", "cats on grass"),
        ("top view, ponies run", "A pony runs; top view"),
        ("一只猫，在草地上奔跑。", "一只猫 在草地上奔跑"),
        ("在草地上，一只猫", "一只猫，在草地上"),
        ("一只ＣＡＴ在草地上", "一只cat在草地上"),
        ("ｶﾒﾗは静止", "カメラは静止"),
        ("แมว วิ่ง", "แมววิ่ง"),
        ("a cat \u2764\ufe0f", "a\u00ad cat \u2764"),
        ("a dog chases a cat", "a cat chases a dog"),  # the limit that the rule has
    ],
)
def test_the_same_words_are_near_at_any_length(one, other):
    assert near_groups([prompt_key(one), prompt_key(other)]) == [0, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a red circle moving left", "a red circle moving right"),
        ("a cat", "two cats"),
        ("?", "!"),
        ("a", "the"),
        ("一瓶蜂蜜", "一瓶蜜蜂"),
        ("一个红色的圆形在灰色背景上快速向左移动", "一个红色的圆形在灰色背景上快速向右移动"),
        ("कि", "की"),  # they differ in a vowel sign alone
        ("ปลา", "ปล่า"),
        (ENGLISH[:60], ENGLISH[:60].replace("fox", "hare")),
    ],
)
def test_short_prompts_of_other_words_are_others(one, other):
    assert near_groups([prompt_key(one), prompt_key(other)]) == [0, 1]


def test_invisible_characters_do_not_count():
    """All of category Cf, and what Unicode 15.1 calls default-ignorable: the characters that a reader cannot see."""
    ignorable = [range(0x180B, 0x1810), range(0x2060, 0x2070), range(0xFE00, 0xFE10), range(0xE0000, 0xE1000)]
    ignorable += [(0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0), range(0xFFF0, 0xFFF9)]
    points = {point for points in ignorable for point in points}
    points |= {point for point in range(sys.maxunicode + 1) if unicodedata.category(chr(point)) == "Cf"}
    prompts = ["a one-eyed cat", *(f"a one-e{chr(point)}yed cat" for point in sorted(points))]
    assert len(prompts) > 4_000
    assert near_groups([prompt_key(prompt) for prompt in prompts]) == [0] * len(prompts)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a cafe\u034f\u0301 at night", "a caf\u00e9 at night"),  # the mark joins its letter once nothing is between
        ("a \u0628\u0651\u200d\u064e sign", "a \u0628\u064e\u0651 sign"),  # marks in their canonical order
        ("\u1112\u200b\u1161\u11ab \uac15", "\ud55c \uac15"),  # jamo are a syllable
        ("\uff76\u2060\uff9e\u3089\u30b9", "\u30ac\u3089\u30b9"),  # a half-width voicing mark
    ],
)
def test_what_an_invisible_character_kept_apart_is_joined(one, other):
    assert near_groups([prompt_key(one), prompt_key(other)]) == [0, 0]


def test_tokens_are_words_or_characters():
    assert tokens("a cat 猫が running") == ["a", "cat", "猫", "が", "running"]
    assert tokens("고양이가 हिन्दी ที่") == ["고양이가", "हिन्दी", "ที่"]


def test_another_word_is_seen_from_the_length_that_the_rule_has():
    for length, found in ((26, False), (27, True)):
        key = " ".join(f"w{place}" for place in range(length))
        assert (near_groups([key, key.replace("w9 ", "x ")]) == [0, 0]) == found
    for length, found in ((35, False), (36, True)):
        key = "".join(chr(0x4E00 + place) for place in range(length))
        assert (near_groups([key, key[:9] + "猫狗" + key[11:]]) == [0, 0]) == found


def test_no_prompt_of_the_shapes_world_is_near_another():
    keys = [prompt_key(prompt_of(scene)) for scene in all_scenes()]
    assert near_groups(keys) == list(range(len(keys)))


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")
def test_real_prompts_are_near_where_they_are_long_or_the_same():
    """VideoAlign's three sets and FETV's: what is near is a long prompt with another word, or the same but for signs."""
    prompts = set()
    for file in sorted(SHARED.glob("*/*.csv")):
        with open(file, newline="", encoding="utf-8-sig") as stream:
            for row in csv.DictReader(stream):
                prompts |= {row[name] for name in ("prompt", "prompt_shorter", "prompt_zh") if row.get(name)}
    keys = sorted({prompt_key(prompt) for prompt in prompts})
    together = [(keys[group], keys[place]) for place, group in enumerate(near_groups(keys)) if group != place]
    assert (len(keys), len(together)) == (4211, 55)
    short = [(one, other) for one, other in together if len(tokens(other)) < 18]
    assert short == [("上海外滩，油画", "上海外滩，油画。")]


def test_no_keys():
    assert near_groups([]) == []
