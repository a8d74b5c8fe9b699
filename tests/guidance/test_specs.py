"""What draws a method's clips travels by name, is loaded once, and is refused where its parts do not belong together."""

import pickle

import pytest
import torch

from components.alignment.lora import add_lora, save_lora
from components.config.params import NrgParams
from components.errors import BadInput
from components.generator.families.wan_small import save_generator
from components.generator.folder import load_generator
from components.generator.sampler import Job, Loader, solve
from components.generator.spec import SamplerSpec
from components.guidance.flow_nrg import NrgSpec, flow_nrg
from components.guidance.latent_reward import save_latent_reward
from components.pipeline.stage import folder_digest
from tests.alignment.test_align import LORA, disturb
from tests.generator.small import tiny_generator
from tests.guidance.test_flow_nrg import small_reward

JOBS = [Job("a", "a red circle", 3), Job("b", "a blue circle", 4, {"VQ": 1.0})]
NRG = NrgParams(weights={"TA": 1.0}, scale=30.0, start=0.0, stop=1.0, max_norm=None, gradient_checkpointing=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A generator, a LoRA, and latent reward models on a trunk of their own and on the generator's."""
    folder = tmp_path_factory.mktemp("drawer")
    save_generator(tiny_generator(), folder / "base")
    for name, frozen in (("own", False), ("frozen", True)):
        reward = small_reward(load_generator(folder / "base").model, frozen)
        save_latent_reward(reward, folder / name, {"generator": folder_digest(folder / "base")})
    transformer = load_generator(folder / "base").model
    add_lora(transformer, LORA, seed=1)
    disturb(transformer)
    save_lora(transformer, folder / "lora")
    return folder


@pytest.fixture
def sampling(bare_stage):
    return bare_stage.params.sampling.model_copy(update={"steps": 3, "height": 16, "width": 16, "frames": 5})


def drawn(spec: Loader, sampling) -> torch.Tensor:
    generator, solver = spec()
    with torch.no_grad():
        return solver(generator.with_text(spec.text_encoder()), JOBS, sampling)


def test_a_spec_that_travelled_draws_the_same(folder, sampling):
    spec = NrgSpec(SamplerSpec(str(folder / "base")), NRG, str(folder / "own"))
    other = pickle.loads(pickle.dumps(spec))
    assert other == spec and torch.equal(drawn(other, sampling), drawn(spec, sampling))
    assert other()[0] is spec()[0], "loaded once"


def test_it_draws_what_its_parts_draw(folder, sampling):
    base, lora = str(folder / "base"), str(folder / "lora")
    generator = load_generator(base)
    reward = small_reward(generator.model, frozen=False)

    def around(flow, jobs):
        return flow_nrg(flow, reward, flow.text, NRG, [None, {"VQ": 1.0}])

    plain, guided = (
        drawn(SamplerSpec(base), sampling),
        drawn(NrgSpec(SamplerSpec(base), NRG, str(folder / "own")), sampling),
    )
    assert torch.equal(plain, solve(generator, JOBS, sampling))
    torch.testing.assert_close(guided, solve(generator, JOBS, sampling, around), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(guided, plain)
    adapted = drawn(SamplerSpec(base, lora), sampling)
    assert torch.equal(adapted, solve(load_generator(base, lora), JOBS, sampling)) and not torch.allclose(adapted, plain)


def test_a_frozen_trunk_does_not_guide_an_adapted_generator(folder, sampling):
    frozen = str(folder / "frozen")
    assert drawn(NrgSpec(SamplerSpec(str(folder / "base")), NRG, frozen), sampling).isfinite().all()
    with pytest.raises(BadInput, match=r"trunk: frozen.*--lora changes"):
        NrgSpec(SamplerSpec(str(folder / "base"), str(folder / "lora")), NRG, frozen)()
