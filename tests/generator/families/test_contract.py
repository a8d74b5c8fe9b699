"""What every generator family has to do, measured against its own pipeline of diffusers on small random weights."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from components.alignment.data import Candidates, Pairs, load_candidates
from components.alignment.lora import add_lora, save_lora
from components.alignment.methods.flow_dpo import train_dpo
from components.config.params import LoraParams, NrgParams, Params, load_params
from components.config.types import Decoding
from components.errors import BadInput
from components.generator.conditioning import Conditioning
from components.generator.family import Family, Generator, VelocityModel, WithSound
from components.generator.folder import FAMILIES, check_folder, load_generator, load_transformer
from components.generator.integration import integration
from components.generator.sampler import EMBEDDED, Job, noise_of, solve, with_settings
from components.generator.spec import generator_once
from components.guidance.flow_nrg import flow_nrg
from components.guidance.latent_reward import LatentReward, first_blocks
from components.guidance.pipeline import FlowNRGPipeline
from components.pipeline.stage import folder_digest
from components.planning.costs import costs_of, models
from components.preferences.schema import write_prompts
from tests.alignment.drawn import draw_base_candidates
from tests.generator.families.small_folders import SMALL, Small
from tests.guidance.test_flow_nrg import NOISE, S0, ToyReward, toy_flow

PROMPTS = ['a blue "circle" moving down', "a red circle"]
STEPS, RATE = 3, 8
PARAMS = load_params(Path("infra/profiles/shapes.yaml"))
NRG = NrgParams(weights={"up": 1.0}, scale=2.0, start=0.0, stop=1.0, max_norm=None, gradient_checkpointing=False)


@dataclass(frozen=True)
class Case:
    """One family's folder, generator and pipeline, in float32."""

    small: Small
    folder: Path
    family: Family
    generator: Generator
    pipeline: Any
    params: Params

    @property
    def sounds(self) -> bool:
        return isinstance(self.family, WithSound)

    def noise(self) -> torch.Tensor:
        shape = self.generator.latent_shape(*self.small.size)
        return torch.stack([noise_of(n, shape) for n in range(len(PROMPTS))])

    def sampling(self, scale: float = 1.0, **more: Any) -> Any:
        frames, height, width = self.small.size
        own = {"solver": "folder", "steps": STEPS, "timesteps": None, "shift": None, "guidance_scale": scale}
        own |= {"frames": frames, "height": height, "width": width, "fps": RATE, "batch_size": 2, "negative_prompt": ""}
        return self.params.sampling.model_copy(update=own | more)

    def settings(self, scale: float = 1.0) -> dict[str, Any]:
        """The pipeline's call for the same clips."""
        frames, height, width = self.small.size
        size = {"height": height, "width": width, "num_frames": frames, "num_inference_steps": STEPS}
        return size | self.small.settings | self.small.guidance(self.pipeline, scale)

    def drawn(self, output: str, scale: float = 1.0) -> Any:
        """The pipeline's clips, or their latents as ours."""
        settings = self.settings(scale)
        pack, unpack = self.family.pipeline_layout(self.pipeline, **settings)
        call = settings | self.small.sound(self.pipeline, self.noise()) | {"output_type": output, "return_dict": False}
        found = self.pipeline(PROMPTS, latents=pack(self.noise()), **call)[0]
        return unpack(found) if output == "latent" else found

    def ours(self, scale: float = 1.0, generator: Generator | None = None, **more: Any) -> torch.Tensor:
        jobs = [Job(str(n), prompt, n) for n, prompt in enumerate(PROMPTS)]
        return solve(generator or self.generator, jobs, self.sampling(scale, **more))

    def told(self, dtype: torch.dtype | None = None) -> Conditioning:
        return with_settings(self.family, self.generator.encode_text(PROMPTS), self.sampling(3.0)).to(dtype=dtype)

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
        return self.noise(), torch.tensor([0.3, 0.8]), self.told()


@pytest.fixture(scope="module", params=SMALL)
def case(request, tmp_path_factory):
    folder, small = tmp_path_factory.mktemp("family") / "generator", SMALL[request.param]
    small.build(folder)
    family = check_folder(folder)
    pipeline = family.load_pipeline(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.enable_slicing()  # clip by clip: some VAEs fail on several at once
    with pytest.MonkeyPatch.context() as patch:
        small.shorten(pipeline, patch)
        yield Case(small, folder, family, load_generator(folder), pipeline, PARAMS)


@pytest.fixture
def stage(case, bare_stage, tmp_path, monkeypatch):
    """A stage whose base generator is the case's, with the prompts of a few candidates."""
    monkeypatch.chdir(tmp_path)
    generator_once.cache_clear()
    Path("data/source").mkdir(parents=True)
    Path("models").mkdir()
    shutil.copytree(case.folder, "models/base_generator")
    write_prompts(Path("data/source/prompts.csv"), [f"a red circle number {n}" for n in range(40)])
    candidates = bare_stage.params.candidates.model_copy(update={"prompts": 2, "per_prompt": 2})
    changed = {"sampling": case.sampling(3.0, steps=2), "candidates": candidates}
    bare_stage.params = bare_stage.params.model_copy(update=changed)
    return bare_stage


def lora_params(family: Family) -> LoraParams:
    """Queries and values of the layers that a LoRA usually adapts."""
    targets = [layer for layer in family.lora_targets if layer.endswith(("to_q", "to_v"))]
    return LoraParams(rank=2, alpha=4, targets=targets)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def video(case: Case, latents: torch.Tensor) -> torch.Tensor:
    """Without the sound that some families have in further channels; pipelines return it apart."""
    return latents[:, : case.generator.model.transformer.config.in_channels] if case.sounds else latents


def test_every_family_is_here():
    image = {"WanImageToVideoPipeline"}  # tests/generator/test_image_to_video.py
    assert set(SMALL) | image == set(FAMILIES)


def test_prompts_are_read_as_the_pipeline_reads_them(case):
    settings = case.settings(3.0)
    each = [case.family.pipeline_conditioning(case.pipeline, prompt, 1, **settings) for prompt in [*PROMPTS, ""]]
    theirs = Conditioning.cat(each)
    ours = with_settings(case.family, case.generator.encode_text([*PROMPTS, ""]), case.sampling(3.0))
    assert ours.tensors.keys() == theirs.tensors.keys() >= {"text", *case.family.reads}
    for name, value in ours.tensors.items():
        close(value.float(), theirs.tensors[name].float())
    assert not torch.allclose(ours.tensors["text"][0], ours.tensors["text"][1])


def test_latents_are_normalised_as_the_transformer_reads_them(case):
    clips = np.random.default_rng(0).integers(0, 256, (2, *case.small.size, 3), dtype=np.uint8)
    pixels = torch.from_numpy(clips).permute(0, 4, 1, 2, 3) / 127.5 - 1
    mean, std = (value.view(1, -1, 1, 1, 1) for value in case.small.statistics(case.pipeline))
    with torch.no_grad():
        latents = case.generator.encode_video(clips)
        close(video(case, latents), (case.pipeline.vae.encode(pixels).latent_dist.mode() - mean) / std)
    assert latents.shape[1:] == case.generator.latent_shape(*case.small.size)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_our_steps_are_the_pipelines(case, scale):
    theirs = case.drawn("latent", scale)
    close(video(case, case.ours(scale)), theirs)
    assert not torch.allclose(theirs, case.drawn("latent", 4.0 - scale), atol=1e-3), "the scale does something"


def test_our_clip_is_the_pipelines(case):
    ours = case.generator.decode(case.ours(3.0)) / 255
    theirs = case.drawn("np", 3.0)
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < 0.51 / 255
    assert theirs.std() > 0.01


def test_tiles_are_decoded_as_the_pipeline_decodes_them(case):
    tiled = case.generator.decode(case.ours(), Decoding(decode="tiled", tile=1))
    assert tiled.shape == (2, *case.small.size, 3)


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_other_solvers_end_near_the_folders(case, solver):
    """A wrong sign or time ends far away."""
    folder, other = case.ours(steps=10), case.ours(steps=10, solver=solver)
    assert (other - folder).std() < 0.4 * folder.std()


def test_sizes_and_steps_that_the_pipeline_cannot_draw_are_named(case):
    frames, height, width = case.small.size
    for size in ((frames + 1, height, width), (frames, height + 4, width), (frames, height, width + 4)):
        with pytest.raises(BadInput, match=r"key 'sampling'.*frames must be .k\+1, sides multiples of"):
            case.generator.latent_shape(*size)


def test_guided_samples_follow_the_tilted_distribution(case):
    """p(x) exp(w x) for p = N(0, S0^2) is N(w S0^2, S0^2), by the folder's scheduler in the family's time and sign."""
    guided = flow_nrg(toy_flow, ToyReward(), NOISE, NRG)
    x = integration(case.generator, case.sampling(steps=300)).run(guided, NOISE, 300)
    assert float(x.mean()) == pytest.approx(NRG.scale * S0**2, abs=0.03)
    assert float(x.std()) == pytest.approx(S0, abs=0.03)


def reward_of(model: VelocityModel, frozen: bool) -> LatentReward:
    torch.manual_seed(5)
    reward = LatentReward(model.family, first_blocks(model, 1, shared=frozen), ["up", "TA"], frozen)
    torch.nn.init.normal_(reward.head)
    return reward.requires_grad_(False).eval()


def test_a_trunk_computes_what_the_generator_computes(case):
    model, seen = case.generator.model, []
    hook = case.family.blocks(model.transformer)[0].register_forward_hook(lambda module, inputs, out: seen.append(out))
    with torch.no_grad():
        model(*case.inputs())
        hook.remove()
        tokens = seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][0]
        loaded = case.family.load_trunk(case.folder, 1, "float32")
        for trunk in (first_blocks(model, 1), first_blocks(model, 1, shared=True), loaded):
            close(case.family.tokens(trunk, *case.inputs()), tokens)
        count = len(case.family.blocks(model.transformer))
        whole = case.family.tokens(case.family.load_trunk(case.folder, count, "float32"), *case.inputs())
        close(whole, case.family.tokens(first_blocks(model, count), *case.inputs()))
    heads, width = case.family.attention(model.transformer)
    assert tokens.shape[2] == heads * width
    close(model(*case.inputs()), load_transformer(case.folder)(*case.inputs()))  # the generator stayed whole
    with pytest.raises(BadInput, match=r"the generator has \d+ blocks"):
        case.family.load_trunk(case.folder, 99, "float32")


@pytest.mark.parametrize("frozen", [False, True])
def test_a_reward_guides_and_weights_of_zero_change_no_bit(case, frozen):
    from components.generator.sampler import ClassifierFree

    told, (x, _, _) = case.told(), case.inputs()
    flow = ClassifierFree(case.generator.model, told, told[[1]], 1.0 if EMBEDDED in case.family.reads else 3.0)
    reward = reward_of(case.generator.model, frozen)
    none = flow_nrg(flow, reward, told, NRG.model_copy(update={"weights": {"up": 0.0}}))
    with torch.no_grad():
        plain = flow(x, 0.6)
        assert torch.equal(none(x, 0.6), plain)
        pushed, own = (flow_nrg(flow, reward_of(case.generator.model, way), told, NRG)(x, 0.6) for way in (frozen, False))
    assert (pushed - plain).abs().max() > 1e-4
    torch.testing.assert_close(pushed, own, rtol=1e-4, atol=1e-5)


def test_the_pipeline_is_guided_as_our_sampler_is(case):
    settings = case.settings(3.0)
    pipeline = FlowNRGPipeline(case.pipeline, VelocityModel(case.family, case.pipeline.transformer))
    reward = reward_of(pipeline.model, frozen=False)
    if case.sounds:
        with pytest.raises(BadInput, match="draws sound beside the video"):
            pipeline(PROMPTS, reward=reward, nrg=NRG, **settings)
        return
    pack, unpack = case.family.pipeline_layout(case.pipeline, **settings)
    call = settings | {"latents": pack(case.noise()), "output_type": "latent", "return_dict": False}
    found = {}
    for weight in (0.0, 1.0):
        nrg = NRG.model_copy(update={"weights": {"up": weight}})
        found[weight] = unpack(pipeline(PROMPTS, reward=reward, nrg=nrg, **call)[0])
    assert torch.equal(found[0.0], case.drawn("latent", 3.0))
    jobs = [Job(str(n), prompt, n) for n, prompt in enumerate(PROMPTS)]
    ours = solve(case.generator, jobs, case.sampling(3.0), lambda flow, _: flow_nrg(flow, reward, flow.text, NRG))
    torch.testing.assert_close(found[1.0], ours, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[1.0], found[0.0], atol=1e-3)


def cached(stage) -> Candidates:
    return load_candidates(folder_digest("models/base_generator"), draw_base_candidates(stage))


def losses_of(stage, candidates: Candidates, reference: str, draws: int = 2) -> list[float]:
    """Of two steps of Flow-DPO from a zero LoRA."""
    table = pd.DataFrame({"prompt": candidates.table.prompt.iloc[[0, 2]].to_numpy()})
    chosen = np.array([0, 2])
    pairs = Pairs(candidates, chosen, chosen + 1, torch.ones(2), torch.zeros(2, dtype=torch.bool), table)
    align = stage.params.align
    training = align.dpo.training.model_copy(
        update={"steps": 2, "batch_size": 2, "warmup_steps": 0, "learning_rate": 0.02, "log_every": 1, "accumulation": 1}
    )
    settings = align.dpo.model_copy(update={"training": training, "validation": 0.0, "patience": None})
    changed = align.model_copy(update={"dpo": settings, "draws": draws, "reference": reference})
    stage.params = stage.params.model_copy(update={"align": changed})
    model = load_transformer("models/base_generator")
    add_lora(model, lora_params(model.family), seed=1)
    stage.folder = Path(reference).resolve()
    rows, _ = train_dpo(stage, model, pairs, settings, {"base": "x"}, Path(reference) / "cache")
    return [row["loss"] for row in rows]


def test_flow_dpo_starts_at_log_2_and_a_cached_reference_is_the_live_one(case, stage):
    candidates = cached(stage)
    told = case.generator.encode_text([*candidates.table.prompt.unique(), ""])
    for name, value in with_settings(case.family, told, stage.params.sampling).tensors.items():
        assert torch.equal(candidates.prompts[range(3)].tensors[name], value)
    live, table = (losses_of(stage, candidates, reference) for reference in ("live", "cached"))
    assert live[0] == pytest.approx(np.log(2), abs=1e-6) and live[0] != live[-1]
    assert live == pytest.approx(table, abs=2e-5)  # beta / 2 times the rounding of errors of about 2, in float32


def test_a_lora_goes_into_the_pipeline_by_its_own_loader(case, tmp_path, monkeypatch):
    model = load_transformer(case.folder)
    add_lora(model, lora_params(model.family), seed=3)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(1))
    save_lora(model, tmp_path)
    base = case.drawn("latent", 3.0)
    pipeline = case.family.load_pipeline(case.folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    case.small.shorten(pipeline, monkeypatch)
    case.small.load_lora(pipeline, tmp_path)
    tuned = Case(case.small, case.folder, case.family, load_generator(case.folder, tmp_path), pipeline, case.params)
    theirs = tuned.drawn("latent", 3.0)
    close(video(case, tuned.ours(3.0)), theirs)
    assert not torch.allclose(theirs, base, atol=1e-2)


def test_bfloat16(case):
    x, t, told = case.inputs()
    half = load_generator(case.folder, dtype="bfloat16")
    with torch.no_grad():
        full, rounded = case.generator.model(x, t, told), half.model(x, t, told)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, full)
    assert (rounded - full).norm() < 0.05 * full.norm()
    assert half.encode_text(PROMPTS).tensors["text"].dtype == torch.bfloat16
    trunk = case.family.load_trunk(case.folder, 1, "bfloat16")
    assert case.family.tokens(trunk, x, t, told).dtype == torch.bfloat16
    assert np.isfinite(half.decode(case.ours(3.0, half)).astype(float)).all()


def test_gradients_reach_the_lora_with_checkpointing(case):
    grads = []
    for checkpointing in (False, True):
        model = load_transformer(case.folder)
        add_lora(model, lora_params(model.family), seed=3)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(1))
        if checkpointing:
            model.transformer.enable_gradient_checkpointing()
            model.train()
        model(*case.inputs()).pow(2).mean().backward()
        grads.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    assert grads[0] and all(float(grad.abs().max()) > 0 for name, grad in grads[0].items() if "lora_B" in name)
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)


def test_costs_are_counted_from_shapes_alone(case):
    configs = case.family.read_configs(case.folder)
    parts = models(case.family, configs, "bfloat16")
    assert set(parts) == set(case.family.parts)
    clip, told = case.family.example(configs, parts, case.small.size)
    assert clip.shape == (1, *case.generator.latent_shape(*case.small.size)) and clip.is_meta
    real = case.told()
    assert {name: value.shape[1:] for name, value in told.tensors.items()} == {
        name: value.shape[1:] for name, value in real.tensors.items()
    }
    params = case.params.model_copy(
        update={"align": case.params.align.model_copy(update={"lora": lora_params(case.family)})}
    )
    costs = costs_of(params, VelocityModel(case.family, parts["transformer"]), clip, told)
    assert costs.step > costs.forward > 0 and costs.layer > costs.entry > 0 and costs.alive > 0
    for way in (Decoding(decode="whole", tile=64), Decoding(decode="tiled", tile=1)):
        runs = case.family.passes(configs, parts, clip, way)
        with torch.no_grad():
            for run in runs.values():
                run()
        assert set(runs) == {"text_encoder", "vae"}


DAMAGES = {
    "no safetensors": lambda folder: [file.unlink() for file in (folder / "vae").glob("*.safetensors")],
    "names no scheduler|no such file|missing": lambda folder: (folder / "scheduler/scheduler_config.json").unlink(),
    "tokenizer": lambda folder: shutil.rmtree(folder / "tokenizer"),
    "is 'AutoencoderTiny'": lambda folder: (folder / "vae/config.json").write_text('{"_class_name": "AutoencoderTiny"}'),
}


@pytest.mark.parametrize("said", DAMAGES)
def test_a_folder_that_lacks_something_is_one_line(case, tmp_path, said):
    folder = shutil.copytree(case.folder, tmp_path / "copy")
    DAMAGES[said](folder)
    with pytest.raises(BadInput, match=said) as error:
        load_generator(folder)
    assert len(str(error.value).splitlines()) == 1
