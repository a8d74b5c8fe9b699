"""Judge `vlm:NAME` against a real server, `transformers serve`, with tiny Qwen2-VL models: what it answers is read, what
cannot be read is no score. `make test-vlm` installs what the server needs into .vlm/."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AddedToken, GenerationConfig

from components.judges.judges import load_judge
from components.judges.protocol import Context, JudgedClip
from components.pipeline.stage import write_json
from components.serving.ports import free_ports
from components.simulation.small_vlm import small_vlm, train_tokenizer
from tests.conftest import REPOSITORY
from tests.reward.tiny import SHAPE

pytestmark = pytest.mark.vlm
ANSWER = "Overall: first"
SIDE = 64
# The template of Qwen2-VL without its system message.
TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{% for part in turn['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# The server. torchvision 0.16, the newest that loads beside a torch it was not built for, has no decoder there, which PIL
# replaces, and lacks one function of today's, which grey pictures alone need.
SERVE = """
import io
import numpy, PIL.Image, torch, torchvision.io, torchvision.transforms.v2.functional as functional
def decode_image(data, mode=None, **options):
    return torch.from_numpy(numpy.array(PIL.Image.open(io.BytesIO(data.numpy().tobytes())).convert("RGB"))).permute(2, 0, 1)
torchvision.io.decode_image = decode_image
functional.grayscale_to_rgb = lambda image: image
from transformers.cli.transformers import main
main()
"""


def save_model(folder: Path, answer: str | None) -> None:
    """A Qwen2-VL folder as the hub has them, with random weights; `answer` is what it says whatever it is shown."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a red circle moving up"], SHAPE.vocabulary)
    tokenizer.add_tokens([AddedToken(ANSWER, normalized=False)])
    tokenizer.chat_template = TEMPLATE
    model = small_vlm(SHAPE, tokenizer)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    if answer is not None:
        start = tokenizer("assistant\n")["input_ids"][-1]
        end, said = (tokenizer.convert_tokens_to_ids(name) for name in ("<|im_end|>", answer))
        with torch.no_grad():
            for name, weight in model.model.language_model.named_parameters():
                if "o_proj" in name or "down_proj" in name:
                    weight.zero_()  # then the next token depends on the last one alone
            table = model.get_input_embeddings().weight
            model.lm_head.weight.zero_()
            model.lm_head.weight[said], model.lm_head.weight[end] = table[start], table[said]
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pixels = {"patch_size": SHAPE.patch, "temporal_patch_size": SHAPE.temporal_patch, "merge_size": SHAPE.merge}
    pixels |= {"size": {"shortest_edge": 64, "longest_edge": 4096}, "processor_class": "Qwen2VLProcessor"}
    write_json(folder / "preprocessor_config.json", pixels | {"image_processor_type": "Qwen2VLImageProcessor"})
    write_json(folder / "video_preprocessor_config.json", pixels | {"video_processor_type": "Qwen2VLVideoProcessor"})


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server's address, and folders of a model that answers and of one that babbles."""
    folder, port = tmp_path_factory.mktemp("served"), free_ports(1)[0]
    save_model(folder / "answers", ANSWER)
    save_model(folder / "babbles", None)
    command = [REPOSITORY / ".venv-ml/bin/python", "-c", SERVE, "serve", "--device", "cpu", "--port", str(port)]
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY / ".vlm"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    url = f"http://127.0.0.1:{port}"
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 240
        while not answers(f"{url}/health"):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-4000:]
            time.sleep(0.5)
        yield url, folder
    finally:
        process.terminate()
        process.wait(60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def judge_at(place: Path, server: tuple[str, Path], model: str, **settings):
    url, folder = server
    values = {"url": f"{url}/v1", "model": str(folder / model), "max_tokens": 8, "frames": 2, "concurrency": 1, "tries": 2}
    (place / "judges").mkdir(exist_ok=True)
    (place / f"judges/{model}.yaml").write_text(yaml.safe_dump(values | settings))
    return load_judge(f"vlm:{model}", Context(state=place / "state"))


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clips = [JudgedClip("memory", "a cat", np.full((4, SIDE, SIDE, 3), level, np.uint8), 8.0) for level in (30, 90, 200)]
    return [(clips[0], clips[1]), (clips[2], clips[1])]


def test_what_a_real_server_answers_is_a_verdict(tmp_path, server, pairs):
    judge = judge_at(tmp_path, server, "answers")
    found = judge.in_order(pairs)
    assert found["reason"].isna().all(), f"{found['reason'].tolist()} {(server[1] / 'log').read_text()[-3000:]}"
    assert found["Overall"].tolist() == [1.0, 1.0], "the first, whatever it is"
    assert judge.spent.asked == 2 and judge.spent.tokens_in > 200 and judge.spent.tokens_out >= 2
    both = judge.compare(pairs)
    assert both["Overall"].tolist() == [0.5, 0.5], "in both orders the first: a tie"


def test_what_cannot_be_read_is_no_score(tmp_path, server, pairs):
    judge = judge_at(tmp_path, server, "babbles")
    found = judge.compare(pairs)
    assert found["Overall"].isna().all() and judge.spent.asked == 4, "it answered each"
    assert found["reason"].str.contains("cut off at max_tokens|does not end with one line").all()


def test_a_server_without_log_probabilities_scores_no_clip(tmp_path, server, pairs):
    """transformers serve passes over `logprobs`, which a pointwise judge reads, in silence."""
    found = judge_at(tmp_path, server, "answers", protocol="pointwise").score([clip for pair in pairs for clip in pair])
    assert found["Overall"].isna().all() and found["reason"].str.contains("no log-probabilities").all()


def test_a_model_that_is_not_there_scores_nothing(tmp_path, server, pairs):
    found = judge_at(tmp_path, server, "gone").compare(pairs)
    assert found["Overall"].isna().all() and found["reason"].str.contains("HTTP 5").all(), found["reason"].tolist()
