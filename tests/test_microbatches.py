"""Parts of a batch on cores of their own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.runtime.microbatches import ROWS, in_microbatches


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(count))


@given(count=st.integers(0, 5 * ROWS))
def test_every_row_comes_back_in_its_place(count):
    a, b = rows(count), torch.arange(count).float()
    with torch.no_grad():
        found = in_microbatches(lambda a, b: a * b[:, None], a, b)
    assert torch.equal(found, a * b[:, None])


def test_a_part_has_one_core_and_at_most_part_rows(four_threads):
    seen = []

    def note(part):
        seen.append((len(part), torch.get_num_threads(), torch.is_grad_enabled()))
        return part

    with torch.no_grad():
        in_microbatches(note, rows(2 * ROWS + 5))
    assert torch.get_num_threads() == 4
    assert sorted(seen) == [(5, 1, False), (ROWS, 1, False), (ROWS, 1, False)]


def test_gradients_and_single_parts_are_worked_on_at_once():
    weight = torch.ones(3, requires_grad=True)
    in_microbatches(lambda part: part * weight, rows(3 * ROWS)).sum().backward()
    torch.testing.assert_close(weight.grad, rows(3 * ROWS).sum(0))
    calls = []
    with torch.no_grad():
        in_microbatches(lambda part: calls.append(len(part)) or part, rows(ROWS))
    assert calls == [ROWS]


def test_an_error_of_a_part_comes_through_and_gives_the_cores_back(four_threads):
    def fail(part):
        if part[0, 0] == 1:
            raise ValueError("no such row")
        return part

    bad = torch.zeros(3 * ROWS, 1)
    bad[2 * ROWS] = 1
    with torch.no_grad(), pytest.raises(ValueError, match="no such row"):
        in_microbatches(fail, bad)
    assert torch.get_num_threads() == 4
