"""What a name given to `reelign lineage` stands for."""

import pytest

from components.errors import BadInput
from components.registry.lineage import start


@pytest.mark.parametrize("given", ["report/gone.html", "data/pairs/gone.parquet"])
def test_a_file_that_is_missing_is_not_taken_for_a_model(given):
    with pytest.raises(BadInput, match=f"^{given}: no such file$"):
        start(None, None, given)
