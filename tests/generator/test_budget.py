"""What aligning a generator takes: published sizes, counted operations, and the plan that `doctor --profile` prints."""

import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from components.cli.main import app
from components.config.params import load_params
from components.config.types import Decoding
from components.errors import BadInput
from components.generator.folder import load_transformer
from components.guidance.train import build
from components.pipeline.graph import stage_names
from components.planning.budget import Budget, budget, budget_of
from components.planning.costs import alive, operations
from components.reward.backbones.registry import load_backbone
from components.reward.inputs import Clip
from components.reward.score import make_input
from components.reward.train import build as build_reward
from tests.planning.measured import measured, profile


def wan(name: str = "wan2.1-1.3b") -> Budget:
    return budget_of(profile(name), measured(name))


@pytest.mark.parametrize(("name", "transformer"), [("wan2.1-1.3b", 1_418_996_800), ("wan2.1-14b", 14_288_491_584)])
def test_parts_have_their_published_sizes(name, transformer):
    parameters = wan(name).parameters
    assert parameters["transformer"] == transformer
    assert parameters["text encoder"] == 5_680_910_336 and parameters["VAE"] == 126_892_531


def test_a_second_reward_model_is_counted_where_it_trains_and_judges():
    found = wan()
    judge, reward = (found.memory[name]["training"] for name in ("judge_reward@prompts", "reward"))
    assert judge == reward and found.steps["judge_reward@prompts"] == found.steps["reward"]
    assert found.operations["judge_reward@prompts"] == found.operations["reward"] > 0
    weights = found.memory["reward_bench"]["scoring"]["VideoReward"]
    for stage in ("evaluate", "tradeoff"):
        assert found.memory[stage]["scoring"]["judge"] == weights > 0
    assert "judge" not in found.memory["relabel"]["scoring"]


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
    drawn = wan().operations["candidates"]
    clips = params.candidates.prompts * params.candidates.per_prompt
    assert drawn / (clips * sampling.steps * 2) == pytest.approx(layers * layer, rel=0.01)


def test_training_keeps_a_layer_and_the_inputs_of_all_or_all_of_all():
    params = load_params("infra/profiles/wan2.1-1.3b.yaml")
    found = measured("wan2.1-1.3b")

    def kept(**how: bool) -> float:
        changed = params.align.model_copy(update=how)
        plan = budget_of(params.model_copy(update={"align": changed}), found)
        return plan.memory["align@dpo"]["training"]["activations"]

    frugal, lavish, offloaded = kept(), kept(gradient_checkpointing=False), kept(offload=True)
    clips, entry = 2 * params.align.dpo.training.batch_size, 21 * 30 * 52 * 1536 * 2  # bfloat16
    layer = frugal / clips - 30 * entry
    assert lavish == pytest.approx(clips * 30 * layer)
    assert offloaded == pytest.approx(clips * (2 * entry + layer)), "one on its way, one in use"
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


def test_reward_models_have_the_sizes_of_real_ones(shapes, frozen):
    params, found = shapes
    for trunk, plan in (("full", found), ("frozen", frozen)):
        own = params.latent_reward.model_copy(update={"trunk": trunk})
        real = build(params.base_generator.folder, own, "float32", len)
        trained = sum(p.numel() for p in real.parameters() if p.requires_grad)
        assert plan.memory["latent_reward"]["training"]["what trains and Adam"] == 16 * trained
        held = sum(p.numel() for p in real.parameters()) if trunk == "full" else trained
        assert plan.parameters["latent reward"] == held, "a frozen trunk is the generator's own"
    real = load_backbone(params.reward.base).network.model
    assert found.parameters["VideoReward"] == sum(p.numel() for p in real.parameters())


def test_operations_of_video_reward_are_those_that_torch_counts(shapes):
    params, found = shapes
    model = build_reward(params.reward).eval()
    sampling = params.sampling
    clip = Clip(np.zeros((params.reward.frames.frames, sampling.height, sampling.width, 3), np.uint8), 8.0)
    batch = model.batch([make_input(model, clip, "a red circle moving up")])
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
    steps = (best.n * best.rank_step + params.sampling.steps - best.rank_step) / params.sampling.steps
    assert found.operations["sample@best_of_n"] == pytest.approx(plain * steps, rel=0.1), "ranked after `rank_step` steps"
    assert frozen.operations["sample@best_of_n"] > best.n * plain, "VideoReward ranks what is drawn to its end"
    assert "VideoReward" in frozen.memory["sample@best_of_n"]["sampling"]
    assert plain < frozen.operations["sample@nrg"] < found.operations["sample@nrg"], "a frozen trunk has no pass of its own"
    settings = 1 + len(params.tradeoff.weights) + sum(each.n for each in params.tradeoff.best_of)
    assert found.draws["tradeoff"] == params.tradeoff.clips * settings


def test_the_reward_models_of_the_wan_profile():
    found = wan()
    assert found.parameters["VideoReward"] == 2_208_985_600, "Qwen2-VL-2B"
    assert found.peak("latent_reward") / 2**30 < 80, "with gradient checkpointing"
    tower = 665_000_000
    parts = found.memory["reward"]["training"]
    assert parts["frozen weights"] == pytest.approx(2 * (2_208_985_600 - tower), rel=0.01), "bfloat16"
    assert parts["weights of the tower"] == pytest.approx(4 * tower, rel=0.01), "it trains, in float32"


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
    stages = set(
        re.findall(r"[a-z_]+(?:@[a-z_]+)?", " ".join(line for line in said.stdout.splitlines() if "GiB" not in line))
    )
    assert {name for name in stage_names() if not name.startswith(("pretrain", "round"))} <= stages, "all of the graph"


def test_twice_the_rate_and_twice_the_gpus_take_half_the_time():
    def hours(*arguments: str) -> float:
        said = doctor("--profile", "shapes", "--memory", "80", *arguments).stdout
        return float(next(line for line in said.splitlines() if "together" in line).split()[-2])

    one = hours("--tflops", "0.002")
    assert one > 1
    assert hours("--tflops", "0.004") == pytest.approx(one / 2, abs=0.01)
    assert hours("--tflops", "0.002", "--gpus", "2") == pytest.approx(one / 2, abs=0.01)


def test_an_unknown_generator_is_named(tmp_path):
    params = load_params()
    elsewhere = params.base_generator.model_copy(update={"folder": str(tmp_path)})
    with pytest.raises(BadInput, match=r"not found, and there is no infra/architectures/shapes.json"):
        budget(params.model_copy(update={"base_generator": elsewhere}))


def test_the_text_encoder_is_never_beside_the_transformer():
    """Stages that draw: encoding, then sampling, then decoding; the peak is the largest of them."""
    found = wan()
    for stage in ("base_generator", "candidates", "sample@base", "sample@nrg", "sample@best_of_n", "tradeoff"):
        phases = found.memory[stage]
        assert "text encoder" in phases["encoding"] and "transformer" not in phases["encoding"]
        assert all("text encoder" not in parts for name, parts in phases.items() if name != "encoding")
        assert found.peak(stage) == max(sum(parts.values()) for parts in phases.values())
    assert 2 * 5_680_910_336 < found.peak("sample@base") < 2 * 5_680_910_336 + 2**30, "UMT5 is the largest part"


@torch.no_grad()
def test_bytes_alive_are_those_that_are_held():
    """Sizes by hand: two of four tensors are there together; a view, a weight and a change in place are none."""
    with torch.device("meta"):
        weight = torch.nn.Parameter(torch.empty(1000, 1000))

    def work() -> torch.Tensor:
        x = torch.empty(10, 1000, device="meta")  # 40,000 bytes
        x = x @ weight.T
        x = x.add_(1)[:5]
        return x * 2  # 20,000 beside the 40,000 that x is a view of

    assert alive(work) == 80_000, "a product's input and output"
    assert alive(lambda: work() + 1) == 80_000


def test_decoding_in_tiles_needs_less():
    found = measured("wan2.1-1.3b")
    whole, tiled, small = (found.decoding(Decoding(*way)) for way in (("whole", 256), ("tiled", 256), ("tiled", 128)))
    assert whole / tiled > 3 and small < tiled and tiled > 81 * 480 * 832 * 3 * 4, "the pixels themselves"
