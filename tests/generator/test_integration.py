"""Solvers: clips of a folder's own scheduler are those of diffusers' pipeline with its defaults."""

import json

import diffusers
import pytest
import torch
from diffusers import WanPipeline
from pydantic import ValidationError

from components.errors import BadInput
from components.generator.families.wan_small import save_generator
from components.generator.folder import load_generator
from components.generator.integration import euler, in_words, integration, timesteps
from components.generator.parts import INDEX, SCHEDULER
from components.generator.sampler import ClassifierFree, Job, beginning, noise_of, solve
from components.guidance.flow_nrg import flow_nrg
from tests.generator.small import tiny_generator
from tests.generator.test_pipeline import SAMPLING
from tests.guidance.test_flow_nrg import params, small_reward

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SCHEDULERS = {
    "UniPCMultistepScheduler": FLOW,
    "DPMSolverMultistepScheduler": FLOW,
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
    "FlowMapEulerDiscreteScheduler": {"shift": 3.0},
}
SMALL = SAMPLING.model_copy(
    update={"solver": "folder", "shift": None, "steps": 5, "height": 16, "width": 16, "frames": 5, "guidance_scale": 3.0}
)
PROMPT = "a red circle moving up"
JOBS = [Job("a", PROMPT, 7), Job("b", "a blue circle", 8)]


@pytest.fixture(scope="module", params=SCHEDULERS)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "generator"
    save_generator(tiny_generator(), path)
    config = getattr(diffusers, request.param)(**SCHEDULERS[request.param]).config
    put_scheduler(path, {"_class_name": request.param, **config})
    return path


def put_scheduler(folder, config) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["scheduler"] = ["diffusers", config.get("_class_name") or "SomeScheduler"]
    (folder / INDEX).write_text(json.dumps(index))
    (folder / SCHEDULER).write_text(json.dumps(dict(config)))


def pipelines(pipeline, generator, **settings):
    noise = torch.stack([noise_of(job.seed, generator.latent_shape(5, 16, 16)) for job in JOBS])
    return pipeline(
        [job.prompt for job in JOBS],
        latents=noise,
        **{"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 5, "guidance_scale": 3.0} | settings,
        max_sequence_length=16,
        output_type="latent",
    ).frames


def test_the_folders_scheduler_draws_the_pipelines_clips(folder):
    generator, pipeline = load_generator(folder), WanPipeline.from_pretrained(folder, dtype=torch.float32)
    theirs = pipelines(pipeline, generator)
    torch.testing.assert_close(solve(generator, JOBS, SMALL), theirs, rtol=1e-4, atol=1e-4)
    again = solve(generator, JOBS, SMALL)
    assert torch.equal(solve(generator, JOBS, SMALL), again), "a batch leaves nothing behind for the next"
    name = type(pipeline.scheduler).__name__
    assert in_words(generator.scheduler, SMALL) == f"{name}, shift 3, 5 steps"


def test_another_shift_and_a_negative_prompt(folder):
    generator, pipeline = load_generator(folder), WanPipeline.from_pretrained(folder, dtype=torch.float32)
    kind, key = type(pipeline.scheduler), "flow_shift" if "flow_shift" in pipeline.scheduler.config else "shift"
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **{key: 5.0})
    theirs = pipelines(pipeline, generator, negative_prompt="a blue circle moving down")
    other = SMALL.model_copy(update={"shift": 5.0, "negative_prompt": "a blue circle moving down"})
    torch.testing.assert_close(solve(generator, JOBS, other), theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(theirs, solve(generator, JOBS, SMALL), atol=1e-2)


def test_unipc_for_a_folder_of_euler_steps(tmp_path):
    save_generator(tiny_generator(), tmp_path, shift=3.0)
    generator, pipeline = load_generator(tmp_path), WanPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    pipeline.scheduler = diffusers.UniPCMultistepScheduler(**FLOW)
    ours = solve(generator, JOBS, SMALL.model_copy(update={"solver": "unipc"}))
    torch.testing.assert_close(ours, pipelines(pipeline, generator), rtol=1e-4, atol=1e-4)


def test_unipc_comes_nearer_to_the_flow_than_euler_in_as_many_steps():
    """dx/dt = x: the solution at t = 0 is x1 / e."""
    generator = tiny_generator()
    x1 = torch.ones(1, 4, 3, 4, 4)
    errors = {}
    for solver in ("euler", "unipc"):
        way = integration(generator, SMALL.model_copy(update={"solver": solver, "shift": 1.0, "steps": 20}))
        errors[solver] = float((way.run(lambda x, t: x, x1, 20) - x1 / torch.e).abs().max())
    assert errors["unipc"] < errors["euler"] / 5


def test_timesteps_of_a_distilled_generator():
    generator = tiny_generator()
    own = SMALL.model_copy(update={"solver": "euler", "steps": 3, "timesteps": [1.0, 0.9, 0.4], "guidance_scale": 1.0})
    flow, noise = beginning(generator, JOBS, own)
    with torch.no_grad():
        torch.testing.assert_close(solve(generator, JOBS, own), euler(flow, noise, [1.0, 0.9, 0.4, 0.0]))
    assert in_words({}, own) == "Euler steps, timesteps of params.yaml, 3 steps"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"timesteps": [1.0, 0.5]}, "need solver euler and steps 2"),
        ({"timesteps": [1.0, 0.5], "steps": 2}, "need solver euler"),
        ({"solver": "euler", "timesteps": [1.0, 0.5]}, "need solver euler and steps 2"),
        ({"solver": "euler", "timesteps": [0.5, 1.0], "steps": 2}, "do not fall"),
        ({"solver": "euler", "timesteps": [1.0, 0.0], "steps": 2}, "greater than 0"),
        ({"solver": "heun"}, "solver"),
    ],
)
def test_params_that_cannot_be(change, said):
    with pytest.raises(ValidationError, match=said):
        type(SMALL).model_validate(SMALL.model_dump() | change)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"_class_name": "DDIMScheduler"}, "DDIMScheduler integrates no velocity"),
        ({}, "SomeScheduler integrates no velocity"),
        ({"_class_name": "UniPCMultistepScheduler", "prediction_type": "epsilon"}, "prediction_type.*'epsilon'"),
        ({"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"}, "use_flow_sigmas.*False"),
    ],
)
def test_a_scheduler_that_is_none_of_a_flow(tmp_path, config, said):
    save_generator(tiny_generator(), tmp_path)
    put_scheduler(tmp_path, config)
    generator = load_generator(tmp_path)
    with pytest.raises(BadInput, match=said):
        solve(generator, JOBS, SMALL)
    assert solve(generator, JOBS, SMALL.model_copy(update={"solver": "euler"})).isfinite().all()


def test_reward_guidance_leaves_pure_noise_alone():
    """A scheduler's first timestep is 999 of 1000, where t / (1 - t) would be 999."""
    generator = tiny_generator()
    way = integration(generator, SMALL.model_copy(update={"solver": "unipc", "shift": 3.0}))
    assert way.times[0] == 0.999 and way.times[-1] == 0
    text, empty = generator.encode_text([PROMPT]), generator.encode_text([""])
    flow, reward = ClassifierFree(generator.model, text, empty, 3.0), small_reward(generator.model, frozen=False)
    guided = flow_nrg(flow, reward, text, params(weights={"TA": 1.0}))
    x = noise_of(1, generator.latent_shape(5, 16, 16))[None]
    with torch.no_grad():
        assert torch.equal(guided(x, way.times[0]), flow(x, way.times[0]))
        assert not torch.equal(guided(x, way.times[1]), flow(x, way.times[1]))
    assert timesteps(2, 1.0) == [1.0, 0.5, 0.0]


def test_guidance_in_an_interval_saves_the_pass_without_prompt_outside():
    generator = tiny_generator()
    settings = SMALL.model_copy(update={"solver": "euler", "shift": 1.0, "steps": 4, "guidance_interval": (0.4, 0.8)})
    flow, noise = beginning(generator, JOBS, settings)  # t is 1, 0.75, 0.5, 0.25
    conditional = ClassifierFree(flow.model, flow.text, flow.empty, 1.0)
    throughout = ClassifierFree(flow.model, flow.text, flow.empty, flow.scale)
    with torch.no_grad():
        for t in (1.0, 0.25):
            assert torch.equal(flow(noise, t), conditional(noise, t))
        for t in (0.75, 0.5):
            assert torch.equal(flow(noise, t), throughout(noise, t))
            assert not torch.allclose(flow(noise, t), conditional(noise, t), atol=1e-3)
    rows = []
    generator.model.register_forward_pre_hook(lambda _model, inputs: rows.append(len(inputs[0])))
    solve(generator, JOBS, settings)
    assert rows == [2, 4, 4, 2]


def test_an_interval_that_falls_is_refused():
    with pytest.raises(ValidationError, match="lowest t, highest t"):
        SMALL.model_validate(SMALL.model_dump() | {"guidance_interval": (0.8, 0.4)})
