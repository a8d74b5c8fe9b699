import json

import pytest

from components.errors import BadInput
from components.reward.card import CARD, plan_of, read_card

PLAN = {"fps": None, "frames": 4, "min_pixels": 64, "max_pixels": 1024, "factor": 8}
GOOD = {
    "head_trained": True,
    "template": "<|VQ_reward|> {text_prompt}",
    "dimensions": ["VQ"],
    "readout": "special",
    "head": "shared",
    "positions": "plain",
    "frame_plan": PLAN,
    "normalisation": {"VQ": {"mean": 0.5, "std": 2.0}},
    "tie_thresholds": {"VQ": 0.1, "Overall": None},
    "loss": "btt",
}


def written(folder, values):
    (folder / CARD).write_text(json.dumps(values))
    return folder


def test_a_whole_file(tmp_path):
    card = read_card(written(tmp_path, GOOD))
    assert card.frame_plan.max_pixels == 1024 and card.tie_thresholds == {"VQ": 0.1, "Overall": None}
    assert str(plan_of(tmp_path)) == "4frames 64-1024px/8"


def test_a_folder_that_is_not_there_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(BadInput, match="none: no such folder of a model; `dvc repro reward` makes models/video_reward"):
        read_card(tmp_path / "none")


@pytest.mark.parametrize("key", [key for key in GOOD if key != "loss"])
def test_a_missing_key_is_named(tmp_path, key):
    with pytest.raises(BadInput, match=f"video_reward.json, key '{key}': missing key"):
        read_card(written(tmp_path, {name: value for name, value in GOOD.items() if name != key}))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"head_trained": "yes"}, "key 'head_trained'"),
        ({"dimensions": []}, "key 'dimensions'"),
        ({"dimensions": "VQ"}, "key 'dimensions'"),
        ({"dimensions": ["VQ", "VQ"]}, "dimensions names one twice"),
        ({"dimensions": ["MQ"]}, "normalisation has no MQ"),
        ({"template": "{text_prompt}"}, r"<\|VQ_reward\|> must stand in it once"),
        ({"readout": "first"}, "key 'readout'"),
        ({"frame_plan": None}, "key 'frame_plan'"),
        ({"frame_plan": PLAN | {"factor": 0}}, "key 'frame_plan.factor'"),
        ({"frame_plan": PLAN | {"min_pixels": 1e300}}, "key 'frame_plan.min_pixels'"),
        ({"frame_plan": PLAN | {"max_pixels": 10**12}}, "key 'frame_plan.max_pixels'"),
        ({"frame_plan": PLAN | {"min_pixels": 1025}}, "key 'frame_plan.min_pixels': 1025 is above max_pixels, 1024"),
        ({"frame_plan": PLAN | {"frames": True}}, "key 'frame_plan.frames'"),
        ({"frame_plan": PLAN | {"fps": 2.0}}, "key 'frame_plan': a frame plan needs fps or frames, one of them"),
        ({"normalisation": {"VQ": {"mean": 0.0, "std": 0.0}}}, "key 'normalisation.VQ.std'"),
        ({"normalisation": {"VQ": {"mean": float("nan"), "std": 1.0}}}, "key 'normalisation.VQ.mean'"),
        ({"tie_thresholds": {"VQ": "x"}}, "key 'tie_thresholds.VQ'"),
        ({"tie_thresholds": {"VQ": -0.1}}, "key 'tie_thresholds.VQ'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, changed, said):
    with pytest.raises(BadInput, match=f"{said}"):
        read_card(written(tmp_path, GOOD | changed))
