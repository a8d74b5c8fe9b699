"""Export in the published layout: equal bit by bit in our importer, equal in a separate reader, names of tensors."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from typer.testing import CliRunner

from components.cli.main import app
from components.config.params import LoraParams
from components.errors import BadInput
from components.reward.backbones.qwen2_vl import Qwen2VL
from components.reward.export import export_videoalign
from components.reward.model import VideoReward, load_chat
from components.reward.prompt import TEMPLATES, PromptBuilder
from components.reward.published import load_published
from components.reward.score import Clip, RewardModel, Score
from components.simulation.small_vlm import small_vlm, train_tokenizer
from tests.reward.tiny import DIMENSIONS, SHAPE, saved_model, tiny_card, tiny_model

NAMES = json.loads((Path(__file__).parent / "published_names.json").read_text())
OPEN = Path("../shared/data/reference-open").resolve()
# The sizes of the runs that published_names.json was made from.
SIZES = {"hidden": 64, "heads": 4, "kv_heads": 2, "ffn": 160, "vision_dim": 32, "vision_layers": 2, "vision_heads": 2}
PLAN = {"fps": 2.0, "frames": None, "min_pixels": 128 * 28 * 28, "max_pixels": 200704, "factor": 28}
PROMPT = "a red circle moving up"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A small base model with patches of 14 pixels."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("models") / "base"
    tokenizer = train_tokenizer([PROMPT], 400)
    network = small_vlm(SHAPE.model_copy(update=SIZES | {"patch": 14}), tokenizer)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(3)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def clips() -> list[Clip]:
    rng = np.random.default_rng(2)
    return [
        Clip(rng.integers(0, 256, shape, dtype=np.uint8), fps)
        for shape, fps in (((9, 90, 120, 3), 4.0), ((6, 64, 64, 3), 2.0))
    ]


def template_of(readout: str) -> str:
    return (TEMPLATES / ("short.txt" if readout == "special" else "plain/short.txt")).read_text()


def trained(folder: Path, base: Path, head="per_dimension", readout="special", template=None, **card) -> Path:
    """A VideoReward on the base, trained for three steps, as stage `reward` leaves it."""
    torch.manual_seed(3)
    backbone = Qwen2VL.load(base, card.get("dtype", "float32"))
    prompts = PromptBuilder(
        load_chat(base, backbone), Qwen2VL.video_token, template or template_of(readout), DIMENSIONS, readout
    )
    model = VideoReward(backbone, prompts, head, "plain")
    model.prepare_training(LoraParams(rank=2, alpha=4, targets=["q_proj", "down_proj"]))
    made = [
        (prompts.ids(PROMPT, model.patch_shape.tokens(2, 28, 28)), Clip(np.full((2, 28, 28, 3), 9 * n, np.uint8), 1.0))
        for n in (1, 9)
    ]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.02)
    before = model.head.weight.detach().clone()
    for _ in range(3):
        a, b = model(model.batch(made))
        optimizer.zero_grad()
        torch.nn.functional.softplus(b - a).sum().backward()
        optimizer.step()
    assert not torch.equal(before, model.head.weight)
    model.merge(card.get("dtype", "float32"))
    values = {"head": head, "frame_plan": PLAN, "provenance": {"base": str(base), "steps": 3}} | card
    values["normalisation"] = {name: {"mean": 0.1 * n, "std": 1.0 + n} for n, name in enumerate(DIMENSIONS)}
    model.save(folder, tiny_card(model, **values))
    return folder


def scores(folder: Path, template: Path | None = None) -> list[Score]:
    found = RewardModel.load(folder, template=template).score([(clip, PROMPT) for clip in clips()])
    assert all(isinstance(score, Score) for score in found)
    return found


CASES = {
    "a row a dimension": {},
    "a shared row": {"head": "shared"},
    "last token": {"readout": "last"},
    "last token, reward tokens in the text": {"readout": "last", "template": (TEMPLATES / "short.txt").read_text()},
    "mean but for the last": {"readout": "mean_but_last"},
    "bfloat16": {"dtype": "bfloat16"},
    "eight frames": {"frame_plan": PLAN | {"fps": None, "frames": 4}},
}


@pytest.mark.parametrize("case", CASES)
def test_our_importer_gives_the_same_bits(case, base, tmp_path):
    ours = trained(tmp_path / "model", base, **CASES[case])
    made = export_videoalign(ours, tmp_path / "out")
    assert made.template_type == "prompt_template.txt" and all(file.exists() for file in made.files)
    for mine, theirs in zip(scores(ours), scores(tmp_path / "out", tmp_path / "out/prompt_template.txt"), strict=True):
        assert (mine.raw, mine.normalised, mine.frame_plan) == (theirs.raw, theirs.normalised, theirs.frame_plan)
        assert len(set(mine.raw.values())) == 3
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def read_as_others_do(run: Path, clip: Clip, prompt: str) -> dict[str, float]:
    """A reader of the layout in plain transformers, by its description alone; of the model, raw scores. `run` has read-out
    `special`, and its base model lies where it says."""
    config = json.loads((run / "model_config.json").read_text())
    facts, data, norms = config["model_config"], config["data_config"], config["inference_config"]
    del data["meta_data"], data["data_dir"]
    (checkpoint,) = run.glob("checkpoint-*")
    tokenizer = AutoTokenizer.from_pretrained(facts["model_name_or_path"])
    tokens = [f"<|{name}_reward|>" for name in ("VQ", "MQ", "TA")]
    tokenizer.add_tokens(tokens, special_tokens=True)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(checkpoint / "tokenizer").get_vocab()
    network = Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_pretrained(facts["model_name_or_path"])).eval()
    network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    state = torch.load(checkpoint / "model.pth", weights_only=True)
    head = state.pop("rm_head.weight")
    assert head.shape == (facts["output_dim"], 64)
    now = {
        re.sub(r"^model\.", "model.language_model.", name) if name.startswith("model.") else name: t
        for name, t in state.items()
    }
    now = {f"model.{name}" if name.startswith("visual.") else name: tensor for name, tensor in now.items()}
    network.load_state_dict(now, strict=True)

    count = max(4, min(len(clip.frames) / clip.fps * data["fps"], len(clip.frames) // 2 * 2))
    chosen = np.round(np.linspace(0, len(clip.frames) - 1, round(count / 2) * 2)).astype(int)
    frames = torch.from_numpy(clip.frames[chosen]).permute(0, 3, 1, 2).float()
    height, width = frames.shape[2:]
    scale = (128 * 28 * 28 / (height * width)) ** 0.5  # these clips are smaller than the least size
    height, width = (int(np.ceil(side * scale / 28)) * 28 for side in (height, width))
    frames = (
        torch.nn.functional.interpolate(frames, (height, width), mode="bicubic", antialias=True).clamp(0, 255).round() / 255
    )
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    frames = (frames - mean[:, None, None]) / std[:, None, None]
    t, h, w = len(frames) // 2, height // 14, width // 14
    cut = frames.reshape(t, 2, 3, h // 2, 2, 14, w // 2, 2, 14).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    with torch.no_grad():
        features = network.model.visual(cut.reshape(t * h * w, -1), grid_thw=torch.tensor([[t, h, w]])).pooler_output
        turn = {
            "role": "user",
            "content": [
                {"type": "video"},
                {"type": "text", "text": (run / "prompt_template.txt").read_text().replace("{text_prompt}", prompt)},
            ],
        }
        text = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
        text = text.replace("<|video_pad|>", "<|video_pad|>" * len(features))
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        embedded = network.get_input_embeddings()(ids)
        embedded[ids == tokenizer.convert_tokens_to_ids("<|video_pad|>")] = features
        places = torch.arange(ids.shape[1])[None]
        states = network.model.language_model(inputs_embeds=embedded, position_ids=places.expand(3, 1, -1)).last_hidden_state
    outputs = states[0] @ head.T
    at = [ids[0].tolist().index(tokenizer.convert_tokens_to_ids(token)) for token in tokens]
    raw = [outputs[place, column if len(head) == 3 else 0].item() for column, place in enumerate(at)]
    return {
        name: (value - norms[f"{name}_mean"]) / norms[f"{name}_std"]
        for name, value in zip(data["eval_dim"], raw, strict=True)
    }


@pytest.mark.parametrize("head", ["per_dimension", "shared"])
def test_a_reader_of_its_own_gives_the_same_scores(head, base, tmp_path):
    ours = trained(tmp_path / "model", base, head=head)
    export_videoalign(ours, tmp_path / "out")
    for clip, score in zip(clips(), scores(ours), strict=True):
        assert read_as_others_do(tmp_path / "out", clip, PROMPT) == pytest.approx(score.normalised, abs=1e-4)


def test_names_shapes_and_keys_are_those_of_the_published_runs(base, tmp_path):
    export_videoalign(trained(tmp_path / "model", base), tmp_path / "out")
    tensors = torch.load(tmp_path / "out/checkpoint-3/model.pth", weights_only=True)
    rows = len(AutoTokenizer.from_pretrained(tmp_path / "out/checkpoint-3/tokenizer"))
    shapes = {name: [rows if size == "tokens" else size for size in shape] for name, shape in NAMES["tensors"].items()}
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == shapes
    assert tensors["lm_head.weight"].data_ptr() == tensors["model.embed_tokens.weight"].data_ptr()  # tied: once in the file
    config = json.loads((tmp_path / "out/model_config.json").read_text())
    assert {section: sorted(config[section]) for section in NAMES["keys"]} == NAMES["keys"]


@pytest.mark.skipif(not OPEN.exists(), reason="no reference-open folder beside the checkout")
@pytest.mark.parametrize(("run", "loss"), [("ckpt_b", "btt"), ("ckpt_a", "btt")])
def test_a_published_run_through_our_folder_and_back(run, loss, tmp_path):
    """The names of ckpt_b are those that the reference's own saving code wrote; ckpt_a comes with LoRA to be merged."""
    template = OPEN / "prompt_detailed_special.txt"
    model, card = load_published(OPEN / run, template)
    model.save(tmp_path / "model", card.model_copy(update={"provenance": {"base": str(OPEN / "base"), "steps": 15}}))
    made = export_videoalign(tmp_path / "model", tmp_path / "out")
    assert made.template_type == "detailed_special"
    theirs = torch.load(OPEN / "ckpt_b/checkpoint-15/model.pth", weights_only=True)
    ours = torch.load(tmp_path / "out/checkpoint-15/model.pth", weights_only=True)
    shapes = {name: tensor.shape for name, tensor in theirs.items()} | (
        {"rm_head.weight": (1, 64)} if run == "ckpt_a" else {}
    )
    assert {name: tensor.shape for name, tensor in ours.items()} == shapes
    if run == "ckpt_b":
        assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
    old, new = (json.loads((folder / "model_config.json").read_text()) for folder in (OPEN / run, tmp_path / "out"))
    assert new["inference_config"] == old["inference_config"]
    kept = ("output_dim", "use_special_tokens", "torch_dtype", "reward_token", "loss_type")
    assert all(new["model_config"][key] == old["model_config"][key] for key in kept)
    kept = ("max_frame_pixels", "num_frames", "fps", "eval_dim", "prompt_template_type", "sample_type")
    assert all(new["data_config"][key] == old["data_config"][key] for key in kept)
    again = load_published(tmp_path / "out", template)[0]
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


REFUSED = {
    "positions": ({"positions": "multimodal"}, "key 'positions': 'multimodal': the layout's readers number"),
    "read-out": ({"readout": "mean"}, r"key 'readout': 'mean': the layout can say special, last, mean_but_last"),
    "pixels": ({"frame_plan": PLAN | {"min_pixels": 64}}, r"key 'frame_plan\.min_pixels': 64: .* have 100352 built in"),
    "base unknown": ({"provenance": {}}, "key 'provenance.base': names no base model"),
    "base gone": ({"provenance": {"base": "no/such"}}, "no/such is neither here"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_layout_cannot_say_is_refused_and_nothing_is_left(case, base, tmp_path):
    changes, said = REFUSED[case]
    changes = dict(changes)
    readout = changes.pop("readout", "special")
    folder = trained(tmp_path / "model", base, readout="last" if readout == "mean" else readout)
    card = folder / "video_reward.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | changes | ({"readout": readout})))
    with pytest.raises(BadInput, match=said) as raised:
        export_videoalign(folder, tmp_path / "out")
    assert "\n" not in str(raised.value) and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_other_dimensions_and_other_patches(tmp_path):
    saved_model(tmp_path / "small")
    with pytest.raises(BadInput, match=r"frame_plan\.min_pixels': 64|factor': 8"):
        export_videoalign(tmp_path / "small", tmp_path / "out")
    model = tiny_model(dimensions=["VQ", "TA"])
    norms = {name: {"mean": 0, "std": 1} for name in ("VQ", "TA")}
    model.save(tmp_path / "two", tiny_card(model, dimensions=["VQ", "TA"], normalisation=norms))
    with pytest.raises(BadInput, match=r"key 'dimensions': \['VQ', 'TA'\]: the layout's readers have"):
        export_videoalign(tmp_path / "two", tmp_path / "out")


def test_a_base_model_of_another_size_tokenizer_or_chat_is_refused(base, tmp_path):
    ours, out = trained(tmp_path / "model", base), tmp_path / "out"
    other = tmp_path / "other"
    for change, said in (
        (lambda config: config["text_config"].update(rms_norm_eps=1e-3), "key 'rms_norm_eps': 0.001"),
        (lambda config: config["vision_config"].update(num_heads=4), r"key 'vision_config\.num_heads': 4"),
        (lambda config: config.update(model_type="qwen2_5_vl"), "key 'model_type': no qwen2_vl"),
    ):
        copy(base, other)
        config = json.loads((other / "config.json").read_text())
        change(config)
        (other / "config.json").write_text(json.dumps(config))
        with pytest.raises(BadInput, match=said):
            export_videoalign(ours, out, str(other))
    copy(base, other)
    train_tokenizer(["something else altogether"], 300).save_pretrained(other)
    with pytest.raises(BadInput, match="its tokenizer, with the reward tokens, is not"):
        export_videoalign(ours, out, str(other))
    copy(base, other)
    (other / "chat_template.jinja").write_text((other / "chat_template.jinja").read_text() + "!")
    with pytest.raises(BadInput, match="chat template is not the reward model's"):
        export_videoalign(ours, out, str(other))
    with pytest.raises(BadInput, match="is a VideoReward itself"):
        copy(ours, tmp_path / "again")
        card = tmp_path / "again/video_reward.json"
        card.write_text(card.read_text().replace(str(base), str(ours)))
        export_videoalign(tmp_path / "again", out)
    assert not out.exists()


def copy(source: Path, to: Path) -> None:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(source, to)


def test_the_command(base, tmp_path):
    arguments = ["export-reward", str(trained(tmp_path / "model", base)), str(tmp_path / "out"), "--layout", "videoalign"]
    found = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    told = json.loads(found.output)
    assert found.exit_code == 0 and told["base"] == str(base) and told["template_type"] == "prompt_template.txt"
    assert [Path(file).exists() for file in told["files"]] == [True] * 4
    with pytest.raises(BadInput, match="out: there already"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    arguments[2] = str(tmp_path / "second")
    assert "Readers have no such template" in CliRunner().invoke(app, arguments, catch_exceptions=False).output
    with pytest.raises(BadInput, match="in this layout already"):
        export_videoalign(tmp_path / "out", tmp_path / "third")
