"""benchmarks/claims: its statistics on simulated data, cells by digest, records of results, and both pages."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import mannwhitneyu

from benchmarks.cells import kept, key_of
from benchmarks.claims import accuracy, align, looks, models, page, results, world
from benchmarks.claims import statistics as claims_statistics
from benchmarks.claims.index import CLAIMS, ORDER
from benchmarks.claims.statistics import (
    HOLDS,
    LEVEL,
    NOT_RUN,
    REFUTED,
    UNTOLD,
    Part,
    beyond,
    claim_p,
    crossed,
    part_p,
    smallest_effect,
    verdicts,
)
from components.alignment.lora import add_lora
from components.pipeline.stage import folder_digest
from tests.alignment.test_align import LORA, pairs_of
from tests.generator.small import conditioning, tiny_generator

ABOVE = Part("gain", 0.05)
WITHIN = Part("change", 0.05, kind="within")


def simulated(effect: float, seed: int, seeds: int = 3, prompts: int = 200, spread: float = 0.45) -> np.ndarray:
    """Values [S, P] with seeds, prompts and a rest that are all random."""
    rng = np.random.default_rng(seed)
    values = 0.018 * rng.standard_normal((seeds, 1)) + 0.2 * rng.standard_normal((1, prompts))
    return effect + values + spread * rng.standard_normal((seeds, prompts))


def verdict_of(part: Part, values: np.ndarray) -> str:
    return verdicts({1: claim_p([part], {part.name: crossed(values)})}, 13)[1][0]


def test_intervals_over_seeds_and_prompts_cover_the_effect():
    found = [crossed(simulated(0.1, seed)) for seed in range(600)]
    assert 0.93 <= np.mean([one.low <= 0.1 <= one.high for one in found]) <= 0.99


def test_seeds_that_differ_widen_the_interval():
    alike = simulated(0.1, 0)
    apart = alike + np.array([[-0.2], [0.0], [0.2]])
    narrow, wide = crossed(alike), crossed(apart)
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert wide.between_seeds == pytest.approx(0.2, abs=0.05)


def test_values_without_spread_are_sure():
    found = crossed(np.full((3, 20), 0.25))
    assert (found.low, found.high, found.error) == (0.25, 0.25, 0.0)
    assert beyond(found, 0.1) == 0.0 and beyond(found, 0.25) == 1.0
    assert part_p(WITHIN, crossed(np.zeros((3, 20))))[0] == 0.0


@pytest.mark.parametrize("values", [np.zeros((1, 9)), np.zeros((3, 4)), np.full((3, 9), np.nan)])
def test_too_few_values_are_refused(values):
    with pytest.raises(ValueError, match="two seeds"):
        crossed(values)


def test_verdicts_of_a_clear_a_missing_and_a_noisy_effect():
    assert verdict_of(ABOVE, simulated(0.2, 1)) == HOLDS
    assert verdict_of(ABOVE, simulated(0.0, 2, prompts=4000)) == REFUTED
    assert verdict_of(ABOVE, simulated(-0.3, 3)) == REFUTED
    assert verdict_of(ABOVE, simulated(0.06, 4)) == UNTOLD
    assert verdict_of(WITHIN, simulated(0.0, 5, prompts=4000)) == HOLDS
    assert verdict_of(WITHIN, simulated(0.3, 6)) == REFUTED
    assert verdict_of(WITHIN, simulated(0.04, 7)) == UNTOLD


def test_a_claim_holds_where_all_its_parts_do():
    other = Part("second", 0.05)
    effects = {ABOVE.name: crossed(simulated(0.3, 1)), other.name: crossed(simulated(0.0, 2, prompts=4000))}
    for_it, against = claim_p([ABOVE, other], effects)
    assert for_it == part_p(other, effects[other.name])[0] > 0.05
    assert against == pytest.approx(2 * part_p(other, effects[other.name])[1])


def test_the_correction_is_holms_over_all_planned_claims():
    found = verdicts({4: (0.0015, 1.0), 9: (0.002, 1.0), 2: (0.004, 1.0)}, 13)
    assert [found[n][1] for n in (4, 9, 2)] == pytest.approx([13 * 0.0015, 12 * 0.002, 11 * 0.004])
    assert [found[n][0] for n in (4, 9, 2)] == [HOLDS, HOLDS, UNTOLD]
    assert verdicts({4: (0.0015, 1.0)}, 13)[4][1] == found[4][1]  # those that have not run take nothing back


def test_few_studies_without_any_effect_find_one():
    wrong = 0
    for study in range(100):
        pairs = {n: claim_p([ABOVE], {ABOVE.name: crossed(simulated(0.0, 1000 * study + n))}) for n in range(13)}
        wrong += any(verdict == HOLDS for verdict, _, _ in verdicts(pairs, 13).values())
    assert wrong <= 7


def test_the_smallest_effect_is_found_four_times_of_five():
    effect = smallest_effect(3, 200, (0.018, 0.2, 0.45), LEVEL)
    found = np.mean([beyond(crossed(simulated(effect, seed)), 0.0) <= LEVEL for seed in range(500)])
    assert found == pytest.approx(0.8, abs=0.05)
    assert smallest_effect(3, 200, (0.018, 0.2, 0.45), LEVEL / 13) > effect
    assert smallest_effect(5, 200, (0.018, 0.2, 0.45), LEVEL) < effect


def test_a_cell_is_made_once_for_what_it_depends_on(tmp_path):
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "value").write_text("1")

    place = world.World(tmp_path, tmp_path)
    first = place.cell("kind", {"seed": 1, "inputs": ["a"]}, make)
    assert place.cell("kind", {"inputs": ["a"], "seed": 1}, make) == first and len(made) == 1
    assert place.cell("kind", {"seed": 1, "inputs": ["b"]}, make) != first and len(made) == 2
    assert (first / "value").read_text() == "1" and '"seed": 1' in (first / "cell.json").read_text()


def test_an_interrupted_cell_is_made_anew(tmp_path):
    def interrupted(folder: Path) -> None:
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "cell", interrupted)
    assert not (tmp_path / "cell").exists()
    assert [file.name for file in kept(tmp_path / "cell", whole).iterdir()] == ["whole"]


def whole(folder: Path) -> None:
    (folder / "whole").write_text("")


def slow(folder: Path) -> None:
    (folder / "half").write_text("")
    time.sleep(60)


def test_a_killed_cell_is_made_anew(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=kept, args=(tmp_path / "cell", slow))
    process.start()
    while not list(tmp_path.glob(".cell.*.partial/half")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "cell").exists()
    assert [file.name for file in kept(tmp_path / "cell", whole).iterdir()] == ["whole"]
    assert not list(tmp_path.glob(".cell.*.partial"))


def test_clips_of_two_models_share_prompts_and_noise(tmp_path, monkeypatch):
    monkeypatch.setattr(world, "TEST", 3)
    (tmp_path / "demo/data/source").mkdir(parents=True)
    (tmp_path / "demo/models").mkdir()
    (tmp_path / "demo/models/base_generator").symlink_to(Path("pretrained/generator").resolve())
    from components.simulation.world import all_scenes, prompt_of

    lines = "\n".join(sorted({prompt_of(scene) for scene in all_scenes()}))
    (tmp_path / "demo/data/source/prompts.csv").write_text(f"prompt\n{lines}\n")
    place = world.World(tmp_path / "demo", tmp_path / "work")
    first, again, other = (place.clips(place.base, seed) for seed in (1, 1, 2))
    assert first == again != other
    scores = place.gold(first)
    assert len(scores) == 3 and scores.index.equals(place.gold(other).index)
    assert world.points(scores.Overall, scores.Overall).tolist() == [0.0] * 3
    with pytest.raises(ValueError, match="same prompts"):
        world.points(scores.Overall, scores.Overall[:2])


def test_values_of_prompts_have_the_pooled_share_as_mean():
    right, count = pd.Series([1, 4, 0], list("abc")), pd.Series([2, 5, 3], list("abc"))
    assert accuracy.of_prompts(right, count).mean() == pytest.approx(0.5)
    pairs = pd.DataFrame({"prompt": ["a", "a", "b"], "TA": [1, 0, -1]})
    pairs = pairs.assign(VQ=np.nan, MQ=np.nan, **{f"threshold_{name}": 0.5 for name in accuracy.ASKED})
    pairs = pairs.assign(difference_TA=[0.6, 0.4, 2.0], difference_VQ=1.0, difference_MQ=1.0)
    assert accuracy.share(accuracy.hits(pairs, ties=False)) == 0.5
    assert accuracy.share(accuracy.hits(pairs, ties=True)) == pytest.approx(2 / 3)
    better = pairs.assign(difference_TA=[0.6, 0.4, -2.0])
    gain = accuracy.gain(accuracy.hits(better, ties=True), accuracy.hits(pairs, ties=True))
    assert gain.mean() == pytest.approx(1 / 3)


def test_other_labels_exchange_both_sides_of_a_pair():
    pairs = pd.DataFrame({"chosen": ["a", "c"], "rejected": ["b", "d"], "chosen_reward": [2.0, 3.0]})
    pairs = pairs.assign(rejected_reward=[1.0, 1.0], margin=[1.0, 2.0])
    found = models.swapped(pairs, np.array([True, False]))
    assert found.to_dict("list") == {
        "chosen": ["b", "c"],
        "rejected": ["a", "d"],
        "chosen_reward": [1.0, 3.0],
        "rejected_reward": [2.0, 1.0],
        "margin": [-1.0, 2.0],
    }


def finished(number: int, effect: float) -> results.Result:
    """A record of made values for a claim, all of whose effects are alike."""
    claim, prompts = CLAIMS[number], pd.Index([f"p{place}" for place in range(300)])
    names = [part.name for part in (*claim.parts, *claim.more)]
    values = simulated(effect, number, prompts=300)
    measured = [dict.fromkeys(names, pd.Series(own, prompts)) for own in values]
    return results.record(claim, [17, 18, 19], measured, "demo")


def test_a_record_is_read_back_for_its_design_alone(tmp_path):
    claim, result = CLAIMS[7], finished(7, 0.2)
    results.write(claim, result, tmp_path)
    found = results.read(claim, tmp_path)
    assert found is not None
    name = claim.parts[0].name
    assert found.effects[name].value == pytest.approx(result.effects[name].value, rel=1e-5)
    assert results.read(replace(claim, hypothesis="Another one."), tmp_path) is None
    assert results.read(CLAIMS[8], tmp_path) is None


def test_seeds_of_other_prompts_are_refused():
    with pytest.raises(ValueError, match="same prompts"):
        results.matrix([pd.Series([1.0], ["a"]), pd.Series([1.0], ["b"])])


def test_pages_have_figures_of_finished_claims_alone():
    done = {7: finished(7, 0.2), 8: finished(8, -0.3)}
    parts = page.sections(CLAIMS, done, {8: ["Looked at because it fails."]}, {})
    text, html = page.markdown(parts, CLAIMS, done, "# Claims"), page.html(parts)
    assert f"| {HOLDS.capitalize()} (corrected" in text and f"| {REFUTED.capitalize()} (corrected" in text
    assert text.count(f"| {NOT_RUN.capitalize()} |") == len(CLAIMS) - 2 == html.count("hours of one core")
    assert html.count('<svg class="strip"') == 2 and "Looked at because it fails." in html
    shown = page.effect_text(done[7].effects[CLAIMS[7].parts[0].name])
    assert shown in text and shown in html
    unfinished = text[text.index("## 1.") : text.index("## 2.")]
    assert "[+" not in unfinished and "[-" not in unfinished and "not run yet" in unfinished


def test_every_claim_is_in_the_order_of_cost_once():
    assert sorted(ORDER) == sorted(CLAIMS) == list(range(1, 14))
    assert all(one.parts and one.hypothesis and one.refuted and one.design for one in CLAIMS.values())
    assert len({results.design_digest(one) for one in CLAIMS.values()}) == len(CLAIMS)
    assert key_of(1) != key_of(2) and claims_statistics.LEVEL == 0.025


def test_first_looks_give_no_verdict(tmp_path):
    rows = [
        {"method": method, "prompt_id": f"p{place}", "seed": seed, "dynamic_degree": 1.0 - 0.1 * (method == "dpo")}
        | {f"{judge}_Overall": 0.5 + 0.1 * (method == "dpo" and judge == "gold") for judge in ("gold", "reward")}
        for method in ("base", "sft", "rwr", "dpo", "nrg", "best_of_n")
        for place in range(6)
        for seed in range(2)
    ]
    settings = [
        {"setting": setting, "prompt_id": f"p{place}", "clip": f"p{place}_0"}
        | {f"gold_{name}": 0.5 + 0.1 * (setting == "0:0:1") for name in ("VQ", "MQ", "TA", "Overall")}
        for setting in ("plain", "0:0:1", "0.5:0.5:0", "guidance 3.5")
        for place in range(6)
    ]
    (tmp_path / "data").mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / "data/sample_scores.parquet")
    pd.DataFrame(settings).to_parquet(tmp_path / "data/tradeoff.parquet")
    found = looks.looks(tmp_path)
    shown = {name: one.value for each in found.values() for name, one in each.items()}
    assert shown["gold win rate of Flow-DPO against SFT, Overall"] == 0.5
    assert shown["gold win rate in TA, weights 0:0:1 less 0.5:0.5:0"] == 0.5
    assert shown["reward win rate less gold win rate of Flow-DPO, Overall"] == -0.5
    assert shown["gold win rate of Flow-DPO at guidance 2 against base at 3.5, Overall"] == 0.5
    assert shown["share of clips slower than base's, Flow-DPO"] == 0.5
    results.write_looks(found, "demo", tmp_path)
    assert results.read_looks(tmp_path) == found
    parts = page.sections(CLAIMS, {}, {}, found)
    text = page.markdown(parts, CLAIMS, {}, "# Claims")
    assert text.count(page.LOOK) == 5 and text.count(f"| {NOT_RUN.capitalize()} |") == len(CLAIMS)


@pytest.mark.parametrize(
    ("weights", "file"), [("lora", "pytorch_lora_weights.safetensors"), ("full", "transformer/config.json")]
)
def test_weights_are_kept_along_the_way(tmp_path, monkeypatch, bare_stage, weights, file):
    policy = tiny_generator().model
    if weights == "lora":
        add_lora(policy, LORA, seed=1)
    else:
        policy.requires_grad_(True)
    pairs = pairs_of(tmp_path, torch.randn(12, 4, 3, 4, 4), conditioning(5, 16, 16))
    for name in ("new_policy", "whole_policy"):
        monkeypatch.setattr(align, name, lambda *_: policy)
    monkeypatch.setattr(align, "folder_digest", lambda _: "x")
    monkeypatch.setattr(align, "load_candidates", lambda _: None)
    monkeypatch.setattr(align, "load_pairs", lambda _: pairs)
    monkeypatch.setattr(align, "CACHE", tmp_path / "cache")
    short = {"steps": 4, "batch_size": 2, "log_every": 2, "validate_every": 2, "ema_decay": None}
    dpo = bare_stage.params.align.dpo
    dpo = dpo.model_copy(update={"training": dpo.training.model_copy(update=short)})
    section = bare_stage.params.align.model_copy(update={"dpo": dpo})
    bare_stage.params = bare_stage.params.model_copy(update={"align": section})
    bare_stage.output = lambda path: tmp_path / path
    align.train(bare_stage, weights, [2, 4])
    out = tmp_path / align.OUT
    assert all((out / step / file).exists() for step in ("2", "4")) and (out / "training.csv").exists()
    kept_weights = [folder_digest(out / step) for step in ("2", "4")]
    assert kept_weights[0] != kept_weights[1]
    with pytest.raises(ValueError, match="multiple of 2"):
        align.train(bare_stage, weights, [3])


def test_separation_of_ties_is_the_area_under_the_curve_and_its_linear_part():
    draw = np.random.default_rng(3)
    pairs = pd.DataFrame(
        {"prompt": [f"p{n % 12:02d}" for n in range(240)], "VQ": draw.choice([-1.0, 0.0, 1.0, np.nan], 240)}
    )
    pairs["difference_VQ"] = draw.normal(size=240) * (1 + pairs.VQ.abs().fillna(0))
    sizes = pairs.difference_VQ.abs()
    found = accuracy.separation(pairs, ["VQ"])
    area = mannwhitneyu(sizes[pairs.VQ.abs() == 1], sizes[pairs.VQ == 0]).statistic / (
        (pairs.VQ.abs() == 1).sum() * (pairs.VQ == 0).sum()
    )
    assert found.mean() == pytest.approx(area) and len(found) == 12
    # without one prompt's pairs the area moves by about that prompt's part of the mean
    for prompt in found.index:
        moved = accuracy.separation(pairs[pairs.prompt != prompt], ["VQ"]).mean() - area
        assert moved == pytest.approx(-(found[prompt] - area) / 11, abs=0.006)


def test_thresholds_of_the_pairs_themselves_are_no_worse_than_others():
    draw = np.random.default_rng(4)
    pairs = pd.DataFrame({"prompt": [f"p{n % 5}" for n in range(90)], "VQ": draw.choice([-1.0, 0.0, 1.0], 90)})
    pairs["difference_VQ"] = pairs.VQ + draw.normal(size=90)
    own = accuracy.hits(accuracy.best_thresholds(pairs, ["VQ"]), True, ["VQ"])
    for threshold in (0.0, 0.3, 1.0, 9.0):
        assert accuracy.share(own) >= accuracy.share(accuracy.hits(pairs.assign(threshold_VQ=threshold), True, ["VQ"]))
