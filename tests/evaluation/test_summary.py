import json

from components.evaluation.summary import summary
from tests.evaluation.fixtures import make_other_stages, make_samples, metrics_of, write


def test_an_empty_checkout_is_said_to_be_empty(tmp_path):
    text = summary("shapes", tmp_path)
    assert text.count("not made") == 6


def test_labels_and_bench_alone_are_enough(tmp_path):
    make_other_stages(tmp_path)
    text = summary("shapes", tmp_path)
    assert "84.6% (81-88)" in text and "0.64" in text and "31.0%" in text
    assert "metrics/alignment.json is absent" in text


def test_null_figures_of_tiny_data_are_dashes(tmp_path):
    nothing = {"value": None, "ci95": None, "n": 0}
    dimension = {"accuracy_without_ties": nothing, "accuracy_with_ties": nothing}
    write(tmp_path / "metrics/reward_bench.json", {"pairs": 1, "prompts": 1, "dimensions": {"Overall": dimension}})
    shares = {"labelled": 0, "tie_share": None, "A_share": None}
    pairs = {"pairs": 1, "prompts": 1, "dimensions": {"VQ": shares}, "krippendorff_alpha": None}
    write(tmp_path / "metrics/pairs.json", pairs)
    assert "None" not in summary("shapes", tmp_path)


def test_alignment_shows_both_judges_and_alarms(tmp_path):
    clips, looks = make_samples(tmp_path, prompts=4, seeds=2)
    metrics = metrics_of(tmp_path, clips, looks)
    metrics["profile"] = "shapes"
    metrics["methods"]["dpo"]["hacking"]["reasons"] = ["diversity_down: 0.01 instead of base's 0.2"]
    write(tmp_path / "metrics/alignment.json", json.loads(json.dumps(metrics, allow_nan=False)))
    text = summary("shapes", tmp_path)
    assert "4 prompts x 2 seeds" in text
    rate = metrics["methods"]["dpo"]["win_rate"]["gold"]["Overall"]["value"]
    assert f"{100 * rate:.1f}%" in text
    assert "HACKING ALARM Flow-DPO: diversity_down" in text
    assert "no hacking alarm" not in text
    assert f"base {100 * metrics['base']['prompt_right']:.1f}%" in text
    assert "over the 16 figures of its judge" in text and "Overall by gold, row against column" in text
    assert "Samples are missing" not in text
    other = summary("examples", tmp_path)
    assert "of the profile shapes" in other and "HACKING" not in other


def test_the_latent_reward_model_is_shown_at_each_noise_level(tmp_path):
    bins = {"VQ": [0.75, None, 0.5, 0.5], "Overall": [0.8, 0.7, 0.6, 0.5]}
    write(tmp_path / "metrics/latent_reward.json", {"bins": 4, "accuracy_by_noise_bin": bins, "pairs": {"validation": 41}})
    lines = [line.split() for line in summary("shapes", tmp_path).splitlines()]
    assert ["41", "pairs", "0", "0.25", "0.5", "0.75"] in lines
    assert ["VQ", "75.0%", "-", "50.0%", "50.0%"] in lines and ["Overall", "80.0%", "70.0%", "60.0%", "50.0%"] in lines


def test_a_star_is_what_stands_after_holm_and_missing_samples_are_said(tmp_path):
    clips, looks = make_samples(tmp_path, prompts=4, seeds=2)
    metrics = metrics_of(tmp_path, clips, looks) | {"profile": "shapes"}
    for entry in [*metrics["methods"].values()]:
        for dimensions in entry["win_rate"].values():
            for found in dimensions.values():
                found |= {"value": 0.5, "ci95": [0.4, 0.6], "p_holm": 0.06}
    metrics["methods"]["dpo"]["win_rate"]["gold"]["TA"] |= {"value": 0.7, "ci95": [0.6, 0.8], "p_holm": 0.05}
    for found in metrics["between"].values():
        found["gold"]["Overall"]["p_holm"] = 1.0
    metrics["between"]["nrg/sft"]["gold"]["Overall"] |= {"value": 0.9, "ci95": [0.8, 0.95], "p_holm": 0.01}
    metrics["prompt_set"] = "vbench.csv, prompt"
    metrics["samples"] |= {"wanted": 9, "missing": {"base": 0, "dpo": 1}}
    write(tmp_path / "metrics/alignment.json", metrics)
    metrics = json.loads(json.dumps(metrics, sort_keys=True))  # as the stage writes it
    write(tmp_path / "metrics/alignment.json", metrics)
    text = summary("shapes", tmp_path)
    assert text.count("%*") + text.count(")*") == 2
    assert "70.0% (60-80)*" in text
    line = next(line for line in text.splitlines() if line.startswith("  Flow-NRG") and "(80-95)*" in line)
    assert line.split()[1] == "90.0%"  # against SFT, the first column
    assert "of 9 prompts and seeds, Flow-DPO lacks 1. All figures are of the 8" in text


def test_losses_base_and_what_a_second_buys_are_said(tmp_path):
    make_other_stages(tmp_path)
    clips, looks = make_samples(tmp_path, prompts=5, seeds=1)
    metrics = metrics_of(tmp_path, clips, looks) | {"profile": "shapes"}
    lost = {"value": 0.338, "ci95": [0.28, 0.4], "n": 100, "p": 0.001, "p_holm": 0.01}
    metrics["methods"]["sft"]["win_rate"]["gold"]["VQ"] = lost
    write(tmp_path / "metrics/alignment.json", metrics)
    text = summary("shapes", tmp_path)
    assert "LOSS SFT loses visual quality (VQ 33.8% (28 to 40%)), by the gold judge" in text
    assert "Base is sampled with guidance scale 2, 8 steps, shift 3. Its win rates at 3.5 against 2" in " ".join(
        text.split()
    )
    assert "VQ visual quality, MQ motion quality, TA text alignment" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["0:0:1", "64.0%", "(59-70)", "1.25x", "560"] in lines  # 14 points for 0.025 s
    (tmp_path / ".reelign/measured/tradeoff.json").unlink()
    lines = [line.split() for line in summary("shapes", tmp_path).splitlines()]
    assert ["0:0:1", "64.0%", "(59-70)", "-", "-"] in lines


def test_few_prompts_have_no_interval_and_no_star(tmp_path):
    clips, looks = make_samples(tmp_path, prompts=4, seeds=2)
    write(tmp_path / "metrics/alignment.json", metrics_of(tmp_path, clips, looks) | {"profile": "shapes"})
    text = summary("shapes", tmp_path)
    assert "(n=4 prompts)" in text and "too few for an interval, which takes 5" in text and ")*" not in text
