"""LoRA, pairs and the reference's errors: cached equals live, zero LoRA equals the base."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import save_file

from components.alignment import reference
from components.alignment.data import Candidates, Pairs
from components.alignment.lora import adapters_off, add_lora, make_lean, save_lora, sort_header
from components.alignment.methods.flow_dpo import flow_dpo_loss
from components.alignment.reference import make_grid, pair_errors, reference_errors
from components.alignment.regression import regression
from components.alignment.relabel import choose_pairs
from components.config.params import LoraParams, RelabelParams, TimestepParams, load_params
from components.errors import BadInput
from components.generator.conditioning import Conditioning
from components.generator.families.wan_small import save_generator
from components.generator.family import VelocityModel
from components.generator.folder import load_generator, load_transformer
from components.generator.shards import ConditioningShards, Shards, save_conditioning, save_shards
from tests.generator.small import conditioning, tiny_generator

UNIFORM = TimestepParams(distribution="uniform", shift=1.0)
LORA = LoraParams(rank=2, alpha=4, targets=["to_q", "to_k", "to_v", "to_out.0"])


@pytest.fixture
def transformer():
    model = tiny_generator().model
    add_lora(model, LORA, seed=1)
    return model


@pytest.fixture
def pairs(tmp_path):
    """Six pairs of twelve candidates of four prompts."""
    draw = torch.Generator().manual_seed(4)
    return pairs_of(tmp_path, torch.randn(12, 4, 3, 4, 4, generator=draw), conditioning(5, 16, 16, draw=draw))


def pairs_of(folder, latents: torch.Tensor, text: Conditioning) -> Pairs:
    save_shards([latents[:5], latents[5:]], folder / "latents", {"base generator": "x"})
    save_conditioning([text], folder / "text", {"base generator": "x"})
    made_from = {"base generator": "x"}
    shards = Shards(folder / "latents", made_from), ConditioningShards(folder / "text", made_from)
    table = pd.DataFrame({"row": range(12), "text_row": [n // 3 for n in range(12)]})
    prompts = pd.DataFrame({"prompt": [f"p{n // 3}" for n in range(0, 12, 2)]})
    chosen, rejected = np.arange(0, 12, 2), np.arange(1, 12, 2)
    return Pairs(Candidates(*shards, table), chosen, rejected, torch.ones(6), torch.zeros(6, dtype=bool), prompts)


def disturb(transformer):
    for name, p in transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(len(name)))


def loss_and_gradients(transformer, pairs, grid, params, reference) -> tuple[torch.Tensor, list[torch.Tensor]]:
    indices, draws = [0, 4, 5], [0, 1, 2]
    chosen, rejected = pair_errors(transformer, pairs, indices, draws, grid, params.reduction)
    loss, _ = flow_dpo_loss(chosen, rejected, *reference(indices, draws), grid.t[indices, draws], params)
    trained = [p for p in transformer.parameters() if p.requires_grad]
    return loss, torch.autograd.grad(loss, trained)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cached_and_live_reference_give_the_same_loss_and_gradients(transformer, pairs, bare_stage, tmp_path, reduction):
    params = bare_stage.params.align.dpo.model_copy(update={"reduction": reduction, "beta": 5.0})
    grid = make_grid(len(pairs), 3, TimestepParams(distribution="logit_normal", shift=1.0), seed=2)
    disturb(transformer)
    with adapters_off(transformer):
        table = reference_errors(bare_stage, transformer, pairs, grid, reduction, {"base": "x"}, tmp_path / "cache")

    def live(indices, draws):
        with torch.no_grad(), adapters_off(transformer):
            return pair_errors(transformer, pairs, indices, draws, grid, reduction)

    expected, expected_gradients = loss_and_gradients(transformer, pairs, grid, params, live)
    loss, gradients = loss_and_gradients(
        transformer, pairs, grid, params, lambda indices, draws: (table[0, indices, draws], table[1, indices, draws])
    )
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_at_zero_lora_the_loss_is_log_two(transformer, pairs, bare_stage):
    params = bare_stage.params.align.dpo
    grid = make_grid(len(pairs), 3, UNIFORM, seed=2)

    def live(indices, draws):
        with torch.no_grad(), adapters_off(transformer):
            return pair_errors(transformer, pairs, indices, draws, grid, params.reduction)

    loss, _ = loss_and_gradients(transformer, pairs, grid, params, live)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-7)


def test_the_table_serves_again_and_no_other_does(transformer, pairs, bare_stage, tmp_path):
    grid = make_grid(len(pairs), 3, UNIFORM, seed=2)
    errors = partial(reference_errors, bare_stage, pairs=pairs, reduction="mean", cache=tmp_path / "cache")
    table = errors(transformer, grid=grid, identity={"base": "x"})
    assert torch.equal(errors(None, grid=grid, identity={"base": "x"}), table), "the second time no model is needed"
    # Another grid, another base: another table, which asks the model, None here.
    with pytest.raises(AttributeError):
        errors(
            None, grid=make_grid(len(pairs), 3, TimestepParams(distribution="uniform", shift=2.0), 2), identity={"base": "x"}
        )
    with pytest.raises(AttributeError):
        errors(None, grid=grid, identity={"base": "y"})
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    save_file({"errors": table}, file, {"base": "y"})
    with pytest.raises(BadInput, match=r"was made from base y, expected x"):
        errors(None, grid=grid, identity={"base": "x"})


def test_filling_goes_on_after_a_kill(transformer, pairs, bare_stage, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "BATCH", 2)
    grid = make_grid(len(pairs), 2, UNIFORM, seed=2)
    fill = partial(reference_errors, bare_stage, transformer, pairs, grid, "mean", {"base": "x"})
    whole = fill(tmp_path / "whole")
    calls = []

    def mortal(*args, real=reference.pair_errors):
        calls.append(args[2])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(reference, "pair_errors", mortal)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "killed")
    assert torch.equal(fill(tmp_path / "killed"), whole)
    assert len(calls) == 4 + 4, "the first part was done; the second began again"


def test_a_dropped_prompt_trains_the_unconditional_half(transformer, pairs):
    candidates = pairs.candidates
    untold = replace(candidates, table=candidates.table.assign(text_row=4))

    def loss(candidates, prompt_dropout):
        params = load_params().align.sft.model_copy(update={"prompt_dropout": prompt_dropout})
        loss_fn = regression(candidates, np.arange(5), params, UNIFORM, lambda errors, indices: errors.mean())
        return loss_fn(transformer, [0, 3, 4], torch.Generator().manual_seed(2))[0]

    assert torch.equal(loss(candidates, 1.0), loss(untold, 0.0))
    assert not torch.isclose(loss(candidates, 0.0), loss(untold, 0.0))


def test_both_clips_of_a_pair_see_the_same_noise_and_time(transformer, pairs):
    grid = make_grid(len(pairs), 2, UNIFORM, seed=0)
    chosen, rejected = pair_errors(transformer, replace(pairs, rejected=pairs.chosen), [0, 1, 2], [0, 1, 0], grid, "sum")
    torch.testing.assert_close(chosen, rejected)


def test_the_grid_covers_all_noise_levels():
    t = make_grid(50, 4, UNIFORM, seed=0).t
    assert ((t * 4).long() == torch.arange(4)).all()


def test_lora_round_trip_through_diffusers(transformer, tmp_path):
    save_generator(tiny_generator(), tmp_path / "base")
    model = load_transformer(tmp_path / "base")
    add_lora(model, LORA, seed=1)
    x, t, text = torch.randn(2, 4, 3, 4, 4), torch.tensor([0.2, 0.9]), conditioning(2, 16, 16)
    with torch.no_grad():
        base = model(x, t, text)
        assert torch.equal(base, load_transformer(tmp_path / "base")(x, t, text)), "B is zero at first"
        disturb(model)
        tuned = model(x, t, text)
        assert (tuned - base).abs().max() > 1e-3
        with adapters_off(model):
            assert torch.equal(model(x, t, text), base)
        save_lora(model, tmp_path / "lora")
        pipeline = WanPipeline.from_pretrained(tmp_path / "base", dtype=torch.float32)
        pipeline.load_lora_weights(tmp_path / "lora")
        torch.testing.assert_close(VelocityModel(model.family, pipeline.transformer)(x, t, text), tuned)
        merged = load_generator(tmp_path / "base", tmp_path / "lora").model
        torch.testing.assert_close(merged(x, t, text), tuned, rtol=1e-4, atol=1e-5)


def test_a_target_that_matches_nothing_is_named():
    with pytest.raises(BadInput, match=r"align\.lora\.targets': 'q_proj' matches no layer of the transformer; to_q, to_k"):
        add_lora(tiny_generator().model, LoraParams(rank=2, alpha=4, targets=["q_proj"]), seed=1)


def scores(*rewards: float) -> list[dict]:
    shared = {"prompt_id": "p0", "prompt": "x", "reward_model": "m", "frame_plan": "f"}
    return [{"candidate_id": f"c{i}", **shared, "VQ": r, "reward": r} for i, r in enumerate(rewards)]


def test_pairs_are_best_against_worst_or_all():
    rest = {"sources": {}, "ties": "drop", "example_pairs": 2}
    params = RelabelParams(weights={"VQ": 1.0}, choose="best_worst", min_margin=0.0, **rest)
    (pair,) = choose_pairs(scores(0.5, 2.0, -1.0), params)
    assert (pair["chosen"], pair["rejected"], pair["margin"]) == ("c1", "c2", 3.0)
    assert (pair["chosen_VQ"], pair["rejected_reward"]) == (2.0, -1.0)
    everything = params.model_copy(update={"choose": "all_pairs", "min_margin": 1.0})
    assert {(p["chosen"], p["rejected"]) for p in choose_pairs(scores(0.5, 2.0, -1.0), everything)} == {
        ("c1", "c0"), ("c1", "c2"), ("c0", "c2"),
    }  # fmt: skip
    assert choose_pairs(scores(1.0, 1.0), params) == [], "equal rewards are no preference"


def test_ties_are_kept_when_asked_for_and_margins_weigh():
    rest = {"sources": {}, "ties": "keep", "example_pairs": 2}
    params = RelabelParams(weights={"VQ": 1.0}, choose="margin_weighted", min_margin=1.0, **rest)
    pairs = {(p["chosen"], p["rejected"]): p for p in choose_pairs(scores(0.5, 3.0, -0.5), params)}
    assert {key: (p["tied"], p["weight"]) for key, p in pairs.items()} == {
        ("c1", "c0"): (False, pytest.approx(2.5 / 3)),
        ("c1", "c2"): (False, pytest.approx(3.5 / 3)),
        ("c0", "c2"): (True, 1.0),
    }
    assert choose_pairs(scores(1.0, 1.5), params) == [], "ties alone are no preference"


def test_rewards_weigh_dimensions():
    from components.alignment.relabel import reward

    rest = {"sources": {}, "ties": "drop", "example_pairs": 2}
    params = RelabelParams(weights={"VQ": 3.0, "TA": 1.0}, choose="best_worst", min_margin=0.0, **rest)
    assert reward({"VQ": 1.0, "TA": -1.0, "MQ": np.nan}, params) == 0.5


def test_equal_tensors_make_equal_files_whatever_the_order_of_their_metadata(tmp_path):
    import safetensors
    from safetensors.torch import load_file, save_file

    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(5)}
    files = []
    for number in range(20):  # the writer's order is another each time
        save_file(tensors, tmp_path / f"{number}.safetensors", {key: "x" for key in "qwertz"})
        sort_header(tmp_path / f"{number}.safetensors")
        files.append((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(set(files)) == 1
    torch.testing.assert_close(load_file(tmp_path / "0.safetensors"), tensors)
    with safetensors.safe_open(tmp_path / "0.safetensors", "pt") as file:
        assert file.metadata() == {key: "x" for key in "qwertz"}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_give_the_same_loss_and_gradients(transformer, pairs, checkpointing):
    params = load_params().align
    dpo = params.dpo.model_copy(update={"beta": 5.0})
    grid = make_grid(len(pairs), 3, UNIFORM, seed=2)
    disturb(transformer)

    def live(indices, draws):
        with torch.no_grad(), adapters_off(transformer):
            return pair_errors(transformer, pairs, indices, draws, grid, dpo.reduction)

    expected, expected_gradients = loss_and_gradients(transformer, pairs, grid, dpo, live)
    make_lean(transformer, params.model_copy(update={"compile": True, "gradient_checkpointing": checkpointing}))
    loss, gradients = loss_and_gradients(transformer, pairs, grid, dpo, live)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_compiling_asks_for_a_compiler(transformer, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadInput, match="needs a C"):
        make_lean(transformer, load_params().align.model_copy(update={"compile": True}))
