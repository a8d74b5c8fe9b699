"""What aligning a generator takes: published sizes, counted operations, and the plan that `doctor --profile` prints."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from components.cli import app
from components.errors import BadInput
from components.generator.budget import budget
from components.generator.costs import operations
from components.generator.wan import load_transformer
from components.guidance.train import build
from components.params import load_params
from components.reward.inputs import collate
from components.reward.model import load_backbone
from components.reward.score import make_input
from components.reward.train import build as build_reward


@pytest.mark.parametrize(("name", "transformer"), [("wan2.1-1.3b", 1_418_996_800), ("wan2.1-14b", 14_288_491_584)])
def test_parts_have_their_published_sizes(name, transformer):
    parameters = budget(load_params(f"infra/profiles/{name}.yaml")).parameters
    assert parameters["transformer"] == transformer
    assert parameters["text encoder"] == 5_680_910_336 and parameters["VAE"] == 126_892_531


def test_a_generator_that_is_here_is_read_from_its_folder():
    params = load_params("infra/profiles/shapes.yaml")
    real = load_transformer(params.base_generator.folder)
    found = budget(params)
    assert found.parameters["transformer"] == sum(p.numel() for p in real.parameters())
    assert found.steps["align@dpo"] == params.align.dpo.training.steps


def test_operations_are_those_of_the_matrix_products():
    """A rotary attention and an MLP, by hand: 2 operations a weight and token, 4 a pair of tokens and channel."""
    params = load_params("infra/profiles/wan2.1-1.3b.yaml")
    sampling = params.sampling
    tokens = 21 * (sampling.height // 16) * (sampling.width // 16)
    width, ffn, layers, words = 1536, 8960, 30, 512
    layer = tokens * 2 * (4 * width**2 + 2 * width * ffn + 2 * width**2) + 4 * tokens**2 * width
    layer += words * 2 * 2 * width**2 + 4 * tokens * words * width
    drawn = budget(params).operations["candidates"]
    clips = params.candidates.prompts * params.candidates.per_prompt
    assert drawn / (clips * sampling.steps * 2) == pytest.approx(layers * layer, rel=0.01)


def test_training_keeps_a_layer_and_the_inputs_of_all_or_all_of_all():
    params = load_params("infra/profiles/wan2.1-1.3b.yaml")
    frugal = budget(params).training["activations"]
    without = params.align.model_copy(update={"gradient_checkpointing": False})
    lavish = budget(params.model_copy(update={"align": without})).training["activations"]
    clips, entry = 2 * params.align.dpo.training.batch_size, 21 * 30 * 52 * 1536 * 2  # bfloat16
    layer = frugal / clips - 30 * entry
    assert lavish == pytest.approx(clips * 30 * layer)
    assert layer > 20 * entry, "queries, keys, values, the MLP's inner layer"


def changed(params, section: str, **update):
    return params.model_copy(update={section: getattr(params, section).model_copy(update=update)})


@pytest.fixture(scope="module")
def shapes():
    params = load_params("infra/profiles/shapes.yaml")
    return params, budget(params)


@pytest.fixture(scope="module")
def frozen(shapes):
    """With a frozen trunk, and best of N by VideoReward."""
    chosen = changed(shapes[0], "latent_reward", trunk="frozen")
    return budget(changed(chosen, "best_of_n", judge="video_reward"))


@pytest.fixture(scope="module")
def wan():
    return budget(load_params("infra/profiles/wan2.1-1.3b.yaml"))


def test_reward_models_have_the_sizes_of_real_ones(shapes, frozen):
    params, found = shapes
    for trunk, plan in (("full", found), ("frozen", frozen)):
        own = params.latent_reward.model_copy(update={"trunk": trunk})
        real = build(params.base_generator.folder, own, "float32", len)
        trained = sum(p.numel() for p in real.parameters() if p.requires_grad)
        assert plan.rewards["latent_reward"]["what trains and Adam"] == 16 * trained
        held = sum(p.numel() for p in real.parameters()) if trunk == "full" else trained
        assert plan.parameters["latent reward"] == held, "a frozen trunk is the generator's own"
    real = load_backbone(params.reward.base).model
    assert found.parameters["VideoReward"] == sum(p.numel() for p in real.parameters())


def test_operations_of_video_reward_are_those_that_torch_counts(shapes):
    params, found = shapes
    model = build_reward(params.reward).eval()
    sampling = params.sampling
    clip = np.zeros((params.reward.frames.frames, sampling.height, sampling.width, 3), np.uint8)
    ids, frames = make_input(model, clip, "a red circle moving up")
    batch = collate([ids], [frames], model.patch_shape, model.prompts.tokenizer.pad_token_id)
    with torch.no_grad():
        counted = operations(lambda: model(batch))
    clips = params.candidates.prompts * params.candidates.per_prompt
    assert found.operations["relabel"] / clips == pytest.approx(counted, rel=0.25)


def test_methods_that_draw_more_cost_more(shapes, frozen):
    params, found = shapes
    sampled = found.draws["sample@nrg"]
    best = params.best_of_n
    assert found.draws["sample (4)"] == 4 * sampled and found.draws["sample@best_of_n"] == best.n * sampled
    plain = found.operations["sample (4)"] / 4
    steps = (best.n * best.look + params.sampling.steps - best.look) / params.sampling.steps
    assert found.operations["sample@best_of_n"] == pytest.approx(plain * steps, rel=0.1), "ranked after `look` steps"
    assert frozen.operations["sample@best_of_n"] > best.n * plain, "VideoReward ranks what is drawn to its end"
    assert "VideoReward, float32" in frozen.methods["sample@best_of_n"]
    assert plain < frozen.operations["sample@nrg"] < found.operations["sample@nrg"], "a frozen trunk has no pass of its own"
    settings = 1 + len(params.tradeoff.weights) + sum(each.n for each in params.tradeoff.best_of)
    assert found.draws["tradeoff"] == params.tradeoff.clips * settings


def test_the_reward_models_of_the_wan_profile(wan):
    assert wan.parameters["VideoReward"] == 2_208_985_600, "Qwen2-VL-2B"
    assert sum(wan.rewards["latent_reward"].values()) / 2**30 < 80, "with its layers worked out again"


def doctor(*arguments: str):
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_the_plan_says_what_fits_and_what_does_not():
    said = doctor("--profile", "wan2.1-14b", "--tflops", "400", "--memory", "79")
    assert said.exit_code == 1
    assert "DOES NOT FIT" in said.stdout and "14,288,491,584" in said.stdout
    said = doctor("--profile", "shapes", "--tflops", "0.05", "--memory", "8")
    assert said.exit_code == 0 and "DOES NOT FIT" not in said.stdout
    params = load_params("infra/profiles/shapes.yaml")
    for training in (params.align.dpo.training, params.latent_reward.training, params.reward.training):
        assert f"{training.steps} steps" in said.stdout
    lines = {line.split()[0] for line in said.stdout.splitlines() if line.strip()}
    assert {"latent_reward", "latent_reward:", "reward", "reward:", "sample@nrg", "sample@nrg:", "tradeoff"} <= lines


def test_twice_the_rate_and_twice_the_gpus_take_half_the_time():
    def hours(*arguments: str) -> float:
        said = doctor("--profile", "wan2.1-1.3b", "--memory", "80", *arguments).stdout
        return float(next(line for line in said.splitlines() if "together" in line).split()[-2])

    one = hours("--tflops", "200")
    assert hours("--tflops", "400") == pytest.approx(one / 2, abs=0.01)
    assert hours("--tflops", "200", "--gpus", "2") == pytest.approx(one / 2, abs=0.01)


def test_an_unknown_generator_is_named(tmp_path):
    params = load_params()
    elsewhere = params.base_generator.model_copy(update={"folder": str(tmp_path)})
    with pytest.raises(BadInput, match=r"not found, and there is no infra/architectures/shapes.json"):
        budget(params.model_copy(update={"base_generator": elsewhere}))
