"""VideoReward: what its scores may depend on, what trains, and what a saved model gives back."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from components.config.params import LoraParams
from components.errors import BadInput
from components.reward.backbones.qwen import in_frames
from components.reward.inputs import Clip
from components.reward.model import load_video_reward
from components.reward.score import make_input, raw_scores
from tests.reward.tiny import saved_model, tiny_card, tiny_model

LORA = LoraParams(rank=2, alpha=4, targets=["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"])


READOUTS = {
    "single_special": 'Rate it. "{text_prompt}":<|reward|> please',
    "last": 'Rate it. "{text_prompt}":',
    "mean": 'Rate it. "{text_prompt}":',
    "mean_but_last": 'Rate it. <|VQ_reward|>"{text_prompt}":',  # tokens of dimensions may stand there all the same
}


@pytest.fixture
def model():
    return tiny_model()


def clip(seed: int, frames: int = 4, height: int = 16, width: int = 16) -> Clip:
    return Clip(np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8), 8.0)


def batch_of(model, *items):
    return model.batch([make_input(model, clip, prompt) for clip, prompt in items])


@pytest.mark.parametrize(
    "options",
    [{}, {"positions": "multimodal"}, *({"readout": name, "template": text} for name, text in READOUTS.items())],
    ids=str,
)
def test_score_does_not_depend_on_the_batch(options):
    model = tiny_model(**options)
    items = [
        (clip(0), "a red circle"),
        (clip(1, frames=8), "a"),
        (clip(2, height=32), "a much longer prompt than the others have"),
        (clip(3, frames=2, width=24), "b c"),
    ]
    inputs = [make_input(model, frames, prompt) for frames, prompt in items]
    alone = np.concatenate([raw_scores(model, [one], 1) for one in inputs])
    together = raw_scores(model, inputs, 10**6)
    backwards = raw_scores(model, inputs[::-1], 150)[::-1]
    assert np.abs(alone).max() > 0.1
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(backwards, alone, atol=1e-5)
    np.testing.assert_array_equal(together, raw_scores(model, inputs, 10**6))


def test_prompt_reaches_TA_only(model):
    frames = clip(0)
    one, other = (raw_scores(model, [make_input(model, frames, p)], 1)[0] for p in ("a red circle", "a blue cross!"))
    np.testing.assert_allclose(one[:2], other[:2], atol=1e-6)
    assert abs(one[2] - other[2]) > 1e-3


def test_video_reaches_all_dimensions(model):
    scores = raw_scores(model, [make_input(model, clip(seed), "a") for seed in (0, 1)], 1000)
    assert (np.abs(scores[0] - scores[1]) > 1e-3).all()


def test_positions_matter():
    plain, multimodal = tiny_model(positions="plain"), tiny_model(positions="multimodal")
    item = (clip(0), "a red circle")
    with torch.no_grad():
        assert (plain(batch_of(plain, item)) - multimodal(batch_of(multimodal, item))).abs().max() > 1e-3


def test_plain_positions_are_the_language_models_own_default(model):
    """Same as running Qwen2-VL's parts by hand on embeddings, as the published model's forward does."""
    batch = batch_of(model, (clip(0), "a red circle"))
    network = model.backbone.network
    qwen = network.model
    with torch.no_grad():
        network.resize_token_embeddings(len(model.prompts.tokenizer), mean_resizing=False)
        network.get_input_embeddings().weight[model.prompts.reward_ids] = model.reward_tokens
        embedded = qwen.language_model.embed_tokens(batch.input_ids)
        video = qwen.visual(batch.pixels, grid_thw=batch.grid, frames=in_frames(batch.grid)).pooler_output
        embedded = embedded.masked_scatter((batch.input_ids == model.prompts.video_id)[..., None], video)
        hidden = qwen.language_model(inputs_embeds=embedded).last_hidden_state[0]
        ids = batch.input_ids[0].tolist()
        expected = [hidden[ids.index(token)] @ model.head.weight[i] for i, token in enumerate(model.prompts.reward_ids)]
        torch.testing.assert_close(model(batch)[0], torch.stack(expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("readout", READOUTS)
def test_readouts_by_hand(readout):
    """A head over the states of the unpadded input, as the definition says."""
    model = tiny_model(readout=readout, template=READOUTS[readout])
    short, long = (clip(0), "a red circle"), (clip(1, frames=8), "a much longer prompt than the other")
    with torch.no_grad():
        padded = model(batch_of(model, short, long))
        for row, item in enumerate((short, long)):
            states = []
            hook = model.backbone.network.model.language_model.norm.register_forward_hook(
                lambda *a, to=states: to.append(a[2][0])
            )
            batch = batch_of(model, item)
            model(batch)
            hook.remove()
            ids, (states,) = batch.input_ids[0].tolist(), states
            read = {
                "last": lambda states, ids: states[-1],
                "mean": lambda states, ids: states.mean(0),
                "mean_but_last": lambda states, ids: states[:-1].mean(0),
                "single_special": lambda states, ids: states[ids.index(model.prompts.reward_ids[0])],
            }[readout](states, ids)
            torch.testing.assert_close(padded[row], model.head.weight @ read, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("readout", READOUTS)
def test_other_readouts_train_and_save(readout, tmp_path):
    model = tiny_model(readout=readout, template=READOUTS[readout])
    model.prepare_training(LORA)
    batch = batch_of(model, (clip(0), "a red circle"), (clip(1), "b"))
    model(batch).sum().backward()
    assert model.head.weight.grad.abs().sum() > 0
    assert len(model.reward_tokens) == READOUTS[readout].count("reward|>")
    model.merge()
    with torch.no_grad():
        expected = model.eval()(batch)
        model.save(tmp_path / "model", tiny_card(model))
        loaded, card = load_video_reward(tmp_path / "model")
        torch.testing.assert_close(loaded(batch), expected, atol=1e-5, rtol=1e-5)
    assert card.readout == readout


def test_shared_head_is_one_row():
    model = tiny_model(head="shared")
    assert model.head.weight.shape == (1, 32)
    with torch.no_grad():
        assert model(batch_of(model, (clip(0), "a"))).shape == (1, 3)


def test_what_trains():
    model = tiny_model()
    table = model.backbone.network.get_input_embeddings().weight
    model.prepare_training(LORA)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"reward_tokens", "head.weight"} < trained
    rest = trained - {"reward_tokens", "head.weight"}
    assert all(".visual." in name or "lora_" in name for name in rest)
    assert not any("lora_" in name and ".visual." in name for name in rest)
    visual = {name for name, _ in model.named_parameters() if ".visual." in name}
    assert visual < trained  # the whole tower with its merger
    model(batch_of(model, (clip(0), "a"))).sum().backward()
    assert table.grad is None and model.reward_tokens.grad.abs().sum() > 0


def test_saved_model_gives_the_same_scores(tmp_path):
    model = tiny_model()
    model.prepare_training(LORA)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3)
    batch = batch_of(model, (clip(0), "a red circle"), (clip(1), "b"))
    with torch.no_grad():
        expected = model.eval()(batch)
        model.merge()
        torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=1e-5)
        model.save(tmp_path / "model", tiny_card(model))
        loaded, card = load_video_reward(tmp_path / "model")
        torch.testing.assert_close(loaded(batch), expected, atol=1e-5, rtol=1e-5)
    assert card.dimensions == ["VQ", "MQ", "TA"]


def test_models_that_may_not_score(tmp_path):
    model = tiny_model()
    model.save(tmp_path / "fresh", tiny_card(model, head_trained=False))
    with pytest.raises(BadInput, match="never trained"):
        load_video_reward(tmp_path / "fresh")
    model.save(tmp_path / "narrow", tiny_card(model, head="shared"))
    with pytest.raises(BadInput, match=r"head\.safetensors"):
        load_video_reward(tmp_path / "narrow")
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan
    model.save(tmp_path / "nan", tiny_card(model))
    with pytest.raises(BadInput, match=r"head\.safetensors, key 'weight': a weight is not finite"):
        load_video_reward(tmp_path / "nan")
    with pytest.raises(BadInput, match=r"nothing: no such folder of a model"):
        load_video_reward(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors, name: tensors.pop(name), r"key 'model\.language_model\.layers\.0.*q_proj\.bias': missing"),
        (
            lambda tensors, name: tensors.update({"extra.weight": torch.ones(2)}),
            "'extra.weight': this model has no such tensor",
        ),
        (lambda tensors, name: tensors.update({name: torch.ones(2, 2)}), r"q_proj\.bias': is \(2, 2\), not \(32,\)"),
    ],
)
def test_a_tensor_that_is_missing_left_over_or_of_another_shape_is_named(tmp_path, change, said):
    """transformers fills such places with random weights and goes on: the scores would be noise."""
    file = saved_model(tmp_path / "model") / "model.safetensors"
    tensors = load_file(file)
    change(tensors, "model.layers.0.self_attn.q_proj.bias")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(BadInput, match=said):
        load_video_reward(tmp_path / "model")


def test_weights_that_cannot_be_read(tmp_path):
    file = saved_model(tmp_path / "model") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BadInput, match="no Qwen2VLForConditionalGeneration here"):
        load_video_reward(tmp_path / "model")


def test_a_folder_without_its_tokenizer(tmp_path):
    """transformers makes an empty one; each video was then a failure of its own."""
    for file in saved_model(tmp_path / "model").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BadInput, match=r"model: its tokenizer has no token <\|video_pad\|>: is tokenizer\.json missing"):
        load_video_reward(tmp_path / "model")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("head.safetensors", None, r"head\.safetensors: missing"),
        ("head.safetensors", b"\x10\0", r"head\.safetensors: no safetensors"),
        ("video_reward.json", b'{"head_trained": tr', r"video_reward\.json, row 1: not JSON"),
        ("video_reward.json", b"[]", r"video_reward\.json: is no JSON object"),
        ("video_reward.json", b'{"head_trained": true}', r"video_reward\.json, key 'template': missing key"),
        ("tokenizer.json", b'{"model": ', "model: no tokenizer here"),
        ("chat_template.jinja", b"{% for %}", "key 'chat_template': no chat template of use"),
        ("chat_template.jinja", b"{{ messages[0]['content'][1]['text'] }}", r"gives 0 <\|video_pad\|>"),
        ("config.json", b"{}", r"config\.json, key 'model_type': missing, so no backbone"),
    ],
)
def test_a_file_of_the_folder_that_is_damaged(tmp_path, file, content, said):
    folder = saved_model(tmp_path / "model")
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    with pytest.raises(BadInput, match=said) as raised:
        load_video_reward(folder)
    assert "\n" not in str(raised.value)
