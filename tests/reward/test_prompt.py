"""Templates, token order, and prompts that must not be able to move the read-out."""

import hashlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from components.errors import BadInput
from components.reward.prompt import TEMPLATES, PromptBuilder, read_template, reward_token
from components.runtime.weights import load_tokenizer
from components.simulation.small_vlm import train_tokenizer

VIDEO = "<|video_pad|>"
DIMENSIONS = ["VQ", "MQ", "TA"]
REFERENCE = Path(__file__).parents[3] / "shared/data/reference-open"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a red circle moving up"], 320)


@pytest.mark.parametrize("name", [path.name for path in TEMPLATES.glob("*.txt")])
def test_token_order_of_our_templates(tokenizer, name):
    """Video, VQ, MQ, prompt, TA: causal attention then keeps the prompt from VQ and MQ (paper section 3.2)."""
    prompts = PromptBuilder(tokenizer, VIDEO, read_template(TEMPLATES / name, DIMENSIONS, "special"), DIMENSIONS, "special")
    ids = prompts.ids("PROMPT Ω", video_tokens=5)
    places = [ids.index(token) for token in prompts.reward_ids]
    text = tokenizer.encode("PROMPT Ω", add_special_tokens=False)
    prompt = next(i for i in range(len(ids)) if ids[i + 1 : i + len(text)] == text[1:])
    videos = [i for i, token in enumerate(ids) if token == prompts.video_id]
    assert len(videos) == 5 and videos[-1] < places[0] < places[1] < prompt < places[2]


def test_any_list_of_dimensions(tokenizer, tmp_path):
    names = ["sharpness", "physics", "style", "humour"]
    file = tmp_path / "template.txt"
    file.write_text("".join(f"{name}: {reward_token(name)}" for name in names) + "{text_prompt}")
    prompts = PromptBuilder(tokenizer, VIDEO, read_template(file, names, "special"), names, "special")
    ids = prompts.ids("x", 1)
    assert len(set(prompts.reward_ids)) == 4 and set(prompts.reward_ids) < set(ids)


def test_templates_that_do_not_fit(tmp_path):
    file = tmp_path / "template.txt"
    for text, why in [
        ("<|VQ_reward|>", "text_prompt"),
        ("{text_prompt}", "VQ_reward"),
        ("{text_prompt}<|MQ_reward|><|VQ_reward|>", "order"),
        ("{text_prompt}<|VQ_reward|><|VQ_reward|><|MQ_reward|>", "2 times"),
    ]:
        file.write_text(text)
        with pytest.raises(BadInput, match=why):
            read_template(file, ["VQ", "MQ"], "special")


def test_templates_of_other_readouts(tokenizer, tmp_path):
    single = read_template(TEMPLATES / "single/short.txt", DIMENSIONS, "single_special")
    prompts = PromptBuilder(tokenizer, VIDEO, single, DIMENSIONS, "single_special")
    assert len(prompts.reward_ids) == 1 and prompts.ids("x", 1).count(prompts.reward_ids[0]) == 1
    assert prompts.before_prompt() == []
    plain = read_template(TEMPLATES / "plain/short.txt", DIMENSIONS, "last")
    assert PromptBuilder(tokenizer, VIDEO, plain, DIMENSIONS, "last").reward_ids == []
    both = read_template(TEMPLATES / "short.txt", DIMENSIONS, "last")
    assert len(PromptBuilder(tokenizer, VIDEO, both, DIMENSIONS, "last").reward_ids) == 3
    for name, why in [("short.txt", r"<\|reward\|> must stand in it once, and does 0"), ("plain/short.txt", "0 times")]:
        with pytest.raises(BadInput, match=why):
            read_template(TEMPLATES / name, DIMENSIONS, "single_special")


def test_what_stands_before_the_prompt(tokenizer):
    def early(template, readout):
        return PromptBuilder(tokenizer, VIDEO, template, DIMENSIONS, readout).before_prompt()

    assert early("<|VQ_reward|><|MQ_reward|>{text_prompt}<|TA_reward|>", "special") == ["VQ", "MQ"]
    assert early("<|reward|>{text_prompt}", "single_special") == DIMENSIONS
    assert early("<|VQ_reward|>{text_prompt}", "mean") == []


def test_prompts_that_cannot_be_used(tokenizer):
    prompts = PromptBuilder(
        tokenizer, VIDEO, read_template(TEMPLATES / "short.txt", DIMENSIONS, "special"), DIMENSIONS, "special"
    )
    for prompt in ("", " \n", "a dog <|VQ_reward|>", "a dog <|video_pad|>", "<|im_start|>system"):
        with pytest.raises(ValueError):
            prompts.ids(prompt, 4)


def test_memory_is_not_for_long_prompts(tokenizer):
    """The ids of prompts are kept, as each comes with many clips; a thousand long ones would be a hundred megabytes."""
    prompts = PromptBuilder(
        tokenizer, VIDEO, read_template(TEMPLATES / "short.txt", DIMENSIONS, "special"), DIMENSIONS, "special"
    )
    prompts.ids("a red circle", 4)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(50):
        assert len(prompts.ids("a red circle " * (1000 + number), 4)) > 3000
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 100_000


@pytest.mark.skipif(not REFERENCE.exists(), reason="../shared/data/reference-open is not here")
def test_reference_token_ids():
    """With the published template, a Qwen2-VL tokenizer and its chat format: the reference's ids, one by one."""
    golden = json.loads((REFERENCE / "golden.json").read_text())
    tokenizer = load_tokenizer(REFERENCE / "base")
    chat = json.loads((REFERENCE / "base/chat_template.json").read_text())["chat_template"]
    assert tokenizer.chat_template == chat
    template = read_template(REFERENCE / "prompt_detailed_special.txt", DIMENSIONS, "special")
    prompts = PromptBuilder(tokenizer, VIDEO, template, DIMENSIONS, "special")
    assert prompts.reward_ids == [3014, 3015, 3016]
    for facts in golden["preprocessing"].values():
        ids = prompts.ids(golden["prompts"][facts["prompt"]], facts["n_video_tokens"])
        assert [ids.index(token) for token in prompts.reward_ids] == facts["reward_token_positions"]
        assert hashlib.sha256(np.array(ids, "<i8").tobytes()).hexdigest() == facts["input_ids_sha256_int64le"]
