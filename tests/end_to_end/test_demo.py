"""What the README promises of `make demo`, read off its metrics files: `make check-demo` after `make demo`."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.demo

DIMENSIONS = ("VQ", "MQ", "TA", "Overall")


def metrics(name: str) -> dict:
    return json.loads(Path(f"metrics/{name}.json").read_text())


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_labels_look_human(dimension):
    pairs, source = metrics("pairs"), metrics("source")
    assert 0.20 <= pairs["dimensions"][dimension]["tie_share"] <= 0.45
    assert 0.5 <= source["realism"][dimension]["alpha"] <= 0.8
    assert 0.80 <= source["annotator_vs_gold"][dimension] <= 0.92


def test_the_base_generator_is_neither_perfect_nor_hopeless():
    assert 0.40 <= metrics("alignment")["base"]["prompt_right"] <= 0.85


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_reward_model_agrees_with_people(dimension):
    bench = metrics("reward_bench")
    entry, blind = bench["dimensions"][dimension], bench["baselines"][dimension]
    assert bench["pairs"] >= 300
    assert entry["accuracy_without_ties"]["value"] >= (0.80 if dimension == "Overall" else 0.75)
    assert entry["accuracy_with_ties"]["value"] > max(blind["always_tie"], blind["random"])


def test_alignment_helps_by_a_judge_it_never_saw():
    alignment = metrics("alignment")
    assert alignment["prompts"] * alignment["seeds_per_prompt"] >= 100
    dpo = alignment["methods"]["dpo"]["win_rate"]["gold"]["Overall"]
    assert dpo["value"] >= 0.65 and dpo["ci95"][0] > 0.5
    assert alignment["methods"]["nrg"]["win_rate"]["gold"]["TA"]["ci95"][0] > 0.5
    assert {"sft", "rwr"} <= set(alignment["methods"])
