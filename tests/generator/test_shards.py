"""Rows of many clips in files: read back in any order, mapped and not loaded, refused when they are another generator's."""

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.errors import BadInput
from components.generator import shards
from components.generator.shards import Shards, save_shards

MADE_FROM = {"base generator": "abc"}


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(1, 200), st.data())
def test_rows_come_back_in_any_order(tmp_path_factory, sizes, limit, data):
    folder = tmp_path_factory.mktemp("shards") / "rows"
    rows = torch.arange(sum(sizes) * 6, dtype=torch.float32).view(-1, 2, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", limit)
        save_shards(rows.split(sizes), folder, MADE_FROM)
    read = Shards(folder, MADE_FROM)
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    assert len(read) == len(rows) and read.shape == rows.shape[1:]
    assert torch.equal(read[wanted], rows[wanted])


def test_files_are_mapped_and_not_loaded(tmp_path):
    save_shards([torch.ones(64, 2**20)], tmp_path / "rows", MADE_FROM)
    before = psutil.Process().memory_info().rss
    read = Shards(tmp_path / "rows", MADE_FROM)
    assert read[[3, 60]].sum() == 2**21
    assert psutil.Process().memory_info().rss - before < 64 * 2**20, "256 MiB on disk"


def test_what_is_missing_or_of_another_generator_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    save_shards(torch.ones(3, 1, 2), tmp_path / "rows", MADE_FROM)
    with pytest.raises(BadInput, match=r"00000.safetensors.*was made from base generator abc, expected def"):
        Shards(tmp_path / "rows", {"base generator": "def"})
    (tmp_path / "rows/00001.safetensors").unlink()
    with pytest.raises(BadInput, match=r"00001.safetensors.*missing"):
        Shards(tmp_path / "rows", MADE_FROM)
    with pytest.raises(BadInput, match=r"no \*\.safetensors in it"):
        Shards(tmp_path / "nowhere", MADE_FROM)
