import json

from components.evaluation.summary import summary
from tests.evaluation.fixtures import PARAMS, make_other_stages, make_samples, write


def test_an_empty_checkout_is_said_to_be_empty(tmp_path):
    text = summary("shapes", tmp_path)
    assert text.count("not made") == 4


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
    from components.evaluation.compare import alignment_metrics

    clips, looks = make_samples(tmp_path, prompts=4, seeds=2)
    metrics = alignment_metrics(clips, looks, PARAMS, seed=0)
    metrics["profile"] = "shapes"
    metrics["methods"]["dpo"]["hacking"]["reasons"] = ["diversity_down: 0.01 instead of base's 0.2"]
    write(tmp_path / "metrics/alignment.json", json.loads(json.dumps(metrics, allow_nan=False)))
    text = summary("shapes", tmp_path)
    rate = metrics["methods"]["dpo"]["win_rate"]["gold"]["Overall"]["value"]
    assert f"{100 * rate:.1f}%" in text
    assert "HACKING ALARM Flow-DPO: diversity_down" in text
    assert "no hacking alarm" not in text
    assert f"base {100 * metrics['base']['prompt_right']:.1f}%" in text
    other = summary("examples", tmp_path)
    assert "of the profile shapes" in other and "HACKING" not in other
