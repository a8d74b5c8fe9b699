import json

import pytest

from components.errors import BadInput
from components.guidance.facts import FACTS, read_facts

GOOD = {"generator": "abc", "dimensions": ["VQ", "TA"], "blocks": 2, "frozen": True, "reward_model": "r"}


def test_a_whole_file(tmp_path):
    (tmp_path / FACTS).write_text(json.dumps(GOOD))
    assert read_facts(tmp_path).dimensions == ["VQ", "TA"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("generator", None),
        ("dimensions", []),
        ("dimensions", "VQ"),
        ("dimensions", [1]),
        ("blocks", -1),
        ("blocks", 0),
        ("blocks", True),
        ("blocks", 1e300),
        ("frozen", "x"),
    ],
)
def test_a_wrong_or_missing_value_is_named(tmp_path, key, value):
    (tmp_path / FACTS).write_text(json.dumps(GOOD | {key: value}))
    with pytest.raises(BadInput, match=rf"latent_reward\.json, key '{key}"):
        read_facts(tmp_path)
    (tmp_path / FACTS).write_text(json.dumps({name: kept for name, kept in GOOD.items() if name != key}))
    with pytest.raises(BadInput, match=rf"key '{key}': missing key"):
        read_facts(tmp_path)
