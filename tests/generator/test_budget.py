"""What aligning a generator takes: published sizes, counted operations, and the plan that `doctor --profile` prints."""

import pytest
from typer.testing import CliRunner

from components.cli import app
from components.errors import BadInput
from components.generator.budget import budget
from components.generator.wan import load_transformer
from components.params import load_params


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


def doctor(*arguments: str):
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_the_plan_says_what_fits_and_what_does_not():
    said = doctor("--profile", "wan2.1-14b", "--tflops", "400", "--memory", "79")
    assert said.exit_code == 1
    assert "DOES NOT FIT" in said.stdout and "14,288,491,584" in said.stdout
    said = doctor("--profile", "shapes", "--tflops", "0.05", "--memory", "8")
    assert said.exit_code == 0 and "DOES NOT FIT" not in said.stdout
    assert f"{load_params('infra/profiles/shapes.yaml').align.dpo.training.steps} steps" in said.stdout


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
    with pytest.raises(BadInput, match=r"not there, and infra/architectures/shapes.json does not say what it is"):
        budget(params.model_copy(update={"base_generator": elsewhere}))
