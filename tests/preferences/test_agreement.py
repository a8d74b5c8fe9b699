"""Majority, reviewer and agreement; all blind to which side a clip is on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.contracts import DIMENSIONS
from components.errors import BadInput
from components.preferences.agreement import agreement, awaits, decide, disputed, krippendorff_alpha, majority, shares
from components.preferences.schema import Annotation

LABEL = st.sampled_from([-1, 0, 1])


def view(annotator: str, *labels: int | None, row: int = 2) -> Annotation:
    given = dict(zip(DIMENSIONS, labels, strict=True))
    unrated = dict.fromkeys(DIMENSIONS)
    return Annotation(row, "a.mp4", "b.mp4", "a cat", annotator, given, "old", "new", unrated, unrated)


@st.composite
def views_of_a_pair(draw):
    names = ["1", "2", "3", "reviewer"]
    return [view(name, *draw(st.lists(LABEL, min_size=4, max_size=4))) for name in names]


@given(votes=st.lists(LABEL, min_size=3, max_size=3))
def test_majority_is_blind_to_sides_and_order(votes):
    decided = majority(votes)
    mirrored = majority([-vote for vote in votes])
    assert mirrored == (None if decided is None else -decided)
    assert decided == majority(votes[::-1])
    assert (decided is None) == (len(set(votes)) == 3)


@given(views=views_of_a_pair())
def test_decision_is_blind_to_sides(views):
    labels, by = decide("f", views)
    mirrored, mirrored_by = decide("f", [one.swapped() for one in views])
    assert by == mirrored_by
    assert labels == {dimension: -label for dimension, label in mirrored.items()}
    differ = [dimension for dimension in DIMENSIONS if len({one.labels[dimension] for one in views[:3]}) == 3]
    assert by == ("reviewer" if differ else "majority")
    assert all(labels[dimension] == views[3].labels[dimension] for dimension in differ)


def test_given_labels_pass_as_they_are():
    assert decide("f", [view("given", 1, -1, 0, None)]) == ({"VQ": 1, "MQ": -1, "TA": 0, "Overall": None}, "given")


def test_overall_that_nobody_gave_is_unknown():
    labels, by = decide("f", [view(name, 1, 1, 1, None) for name in "123"])
    assert (labels["Overall"], by) == (None, "majority")


@pytest.mark.parametrize(
    "names",
    [["1", "2"], ["1", "2", "3", "4"], ["given", "1"], ["reviewer"], ["given", "1", "2"], ["given", "reviewer"]],
)
def test_unknown_mix_of_annotators(names):
    with pytest.raises(BadInput, match="f, row 2, key 'annotator': annotators " + ", ".join(names)):
        decide("f", [view(name, 1, 1, 1, 1) for name in names])


def test_undecided_without_a_reviewer():
    split = [view(name, vote, 1, 1, 1) for name, vote in zip("123", (-1, 0, 1), strict=True)]
    with pytest.raises(BadInput, match="row 2, key 'VQ': all three differ and no reviewer decides"):
        decide("f", split)
    with pytest.raises(BadInput, match="key 'VQ'"):
        decide("f", [*split, view("reviewer", None, 1, 1, 1)])
    with pytest.raises(BadInput, match="row 9, key 'Overall': some annotators left it empty"):
        decide("f", [view("1", 1, 1, 1, 1), view("2", 1, 1, 1, 1), view("3", 1, 1, 1, None, row=9)])


@given(views=views_of_a_pair(), kept=st.sets(st.integers(0, 3)), blank=st.booleans())
def test_a_pair_awaits_somebody_exactly_when_nobody_can_decide_it(views, kept, blank):
    if blank:
        views[3] = view("reviewer", None, None, None, None)
    views = [one for place, one in enumerate(views) if place in kept]
    if awaits(views) is None:
        assert set(decide("f", views)[0].values()) <= {-1, 0, 1}
        return
    with pytest.raises(BadInput) as refused:
        decide("f", views or [view("reviewer", 1, 1, 1, 1)])
    assert (awaits(views) == "reviewer") == ("no reviewer decides" in str(refused.value))
    assert (awaits(views) == "reviewer") <= bool(disputed([one for one in views if one.annotator != "reviewer"]))


def test_given_labels_await_nobody():
    assert awaits([view("given", 1, 1, 1, None)]) is None


def alpha_by_definition(votes: np.ndarray) -> float:
    """1 - Do / De for nominal data without gaps, straight from Krippendorff's coincidences of pairs."""
    raters, units = votes.shape
    within = np.mean(
        [
            votes[one, unit] != votes[other, unit]
            for unit in range(units)
            for one in range(raters)
            for other in range(raters)
            if one != other
        ]
    )
    flat = votes.ravel()
    between = np.mean([flat[one] != flat[other] for one in range(len(flat)) for other in range(len(flat)) if one != other])
    return 1 - within / between


def test_alpha():
    votes = np.random.default_rng(0).integers(-1, 2, (3, 12)).astype(float)
    assert krippendorff_alpha(votes, "nominal") == pytest.approx(alpha_by_definition(votes))
    assert krippendorff_alpha(np.tile([1.0, 0.0, -1.0, 1.0], (3, 1))) == pytest.approx(1)
    assert krippendorff_alpha(np.ones((3, 5))) is None
    assert krippendorff_alpha(np.full((3, 5), np.nan)) is None
    near, far = np.tile([1.0, 1, -1, -1, 0, 0], (3, 1)), np.tile([1.0, 1, -1, -1, 0, 0], (3, 1))
    near[0, 0], far[0, 0] = 0, -1
    assert krippendorff_alpha(near) > krippendorff_alpha(far)  # calling A a tie is less far off than calling it B
    assert krippendorff_alpha(near, "nominal") == pytest.approx(krippendorff_alpha(far, "nominal"), abs=0.01)


def test_agreement_needs_several_annotators():
    assert agreement([[view("given", 1, 1, 1, 1)]]) is None
    pairs = [[view(name, vote, 0, 1, None) for name in "123"] for vote in (1, -1, 0)]
    alphas = agreement(pairs)
    assert alphas["VQ"]["ordinal"] == pytest.approx(1)
    assert alphas["MQ"] == alphas["Overall"] == {"ordinal": None, "nominal": None}


def test_shares():
    assert shares([1, 1, -1, 0, None]) == {"labelled": 4, "tie_share": 0.25, "A_share": 2 / 3}
    assert shares([None]) == {"labelled": 0, "tie_share": None, "A_share": None}
    assert shares([0]) == {"labelled": 1, "tie_share": 1.0, "A_share": None}
