"""What section `online` refuses."""

import pytest
from pydantic import ValidationError

from components.config.params import Params, load_params


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("online.rounds", {"ppo": 2}, "no online method ppo; components/methods.py has nft, grpo, prfl, dpo"),
        ("online.rounds", {"nft": 0}, "greater than or equal to 1"),
        ("online.per_prompt", 1, "greater than or equal to 2"),
        ("online.prfl.last", 1, "last 1 is before first 4"),
        ("online.nft.old_decay", 1.0, "less than 1"),
        ("align.dpo.gradient_factor", 0.5, "less than 0.5"),
    ],
)
def test_it_is_refused(path, value, why):
    values = load_params().model_dump()
    *parts, last = path.split(".")
    section = values
    for part in parts:
        section = section[part]
    section[last] = value
    with pytest.raises(ValidationError, match=why):
        Params.model_validate(values)
