"""Named tensors with a batch axis: rows, repeats, splits and moves keep names, rows and dtypes together."""

import pickle

import pytest
import torch

from components.generator.conditioning import Conditioning


def batch(rows: int = 5) -> Conditioning:
    text = torch.arange(rows * 6.0).view(rows, 3, 2)
    return Conditioning({"text": text, "mask": torch.arange(rows * 3).view(rows, 3) % 2 == 0})


def same(one: Conditioning, text: torch.Tensor, mask: torch.Tensor) -> bool:
    return torch.equal(one.tensors["text"], text) and torch.equal(one.tensors["mask"], mask)


def test_rows_by_number_slice_list_and_tensor():
    told = batch()
    text, mask = told.tensors["text"], told.tensors["mask"]
    assert len(told) == 5 and len(told[2]) == 1
    for rows in (slice(1, 4), [3, 0, 3], torch.tensor([4, 1])):
        assert same(told[rows], text[rows], mask[rows])
    assert same(told[-1], text[-1:], mask[-1:])


def test_repeats_are_whole_batches_and_an_expanded_row_is_no_copy():
    told = batch(2)
    text, mask = told.tensors["text"], told.tensors["mask"]
    assert same(told.repeat(2), torch.cat([text, text]), torch.cat([mask, mask]))
    assert same(Conditioning.cat([told[1], told]), text[[1, 0, 1]], mask[[1, 0, 1]])
    wide = told[[0]].expand(3)
    assert same(wide, text[[0, 0, 0]], mask[[0, 0, 0]]) and wide.tensors["text"].stride(0) == 0


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
def test_a_split_is_that_of_tensors(rows):
    told = batch()
    parts = told.split(rows)
    for part, text, mask in zip(parts, told.tensors["text"].split(rows), told.tensors["mask"].split(rows), strict=True):
        assert same(part, text, mask)
    assert same(Conditioning.cat(parts), told.tensors["text"], told.tensors["mask"])


def test_a_dtype_is_that_of_floating_tensors():
    half = batch().to("cpu", torch.bfloat16)
    assert half.tensors["text"].dtype == torch.bfloat16 and half.tensors["mask"].dtype == torch.bool
    assert half.device.type == "cpu" and half.nbytes == 5 * (3 * 2 * 2 + 3)


def test_a_row_is_this_ones_where_chosen():
    told, empty = batch(), batch(1)
    mixed = empty.where(torch.tensor([True, False, False, True, False]), told)
    text, mask = told.tensors["text"].clone(), told.tensors["mask"].clone()
    for name, whole in (("text", text), ("mask", mask)):
        whole[[0, 3]] = empty.tensors[name]
    assert same(mixed, text, mask)


def test_tensors_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="differ in rows"):
        Conditioning({"text": torch.ones(2, 1), "mask": torch.ones(3, 1)})
    with pytest.raises(ValueError, match="unlike tensors"):
        Conditioning.cat([batch(), Conditioning({"text": torch.ones(1, 3, 2)})])
    with pytest.raises(TypeError):
        batch().tensors["text"] = torch.ones(5, 3, 2)


def test_it_can_be_sent_to_another_process():
    told = batch()
    assert same(pickle.loads(pickle.dumps(told)), told.tensors["text"], told.tensors["mask"])
