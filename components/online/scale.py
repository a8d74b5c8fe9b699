"""Scores of `relabel.sources` on the scale of round 1.

A source's scores are normalised over the clips that they are of. Over rounds that hides what changes: each round has a mean
of 0. Here every later round has the mean and deviation of round 1, so that rewards of rounds compare.
"""

import json

import pandas as pd

from components.alignment.relabel import reward
from components.config.params import RelabelParams
from components.errors import BadInput

STAMP = "sources"  # column with the mean and deviation of each source's dimensions


def as_in_round_1(scores: pd.DataFrame, first: pd.DataFrame, params: RelabelParams) -> pd.DataFrame:
    """A round's scores with the sources' columns, their stamp and the reward on the scale of `first`, the scores of
    round 1. BadInput where another version of a source scored round 1, whose scale is not this one's."""
    if STAMP not in scores:
        return scores
    if STAMP not in first:
        raise BadInput("round 1", "has no scores of relabel.sources; start the rounds anew", key=STAMP)
    own, earlier = (json.loads(table[STAMP].iloc[0]) for table in (scores, first))
    found = scores.copy()
    for name, source in params.sources.items():
        if own[name]["by"] != earlier[name]["by"]:
            why = f"version {own[name]['by']} scores now, {earlier[name]['by']} scored round 1; start the rounds anew"
            raise BadInput(f"relabel.sources.{name}", why)
        for dimension in source.dimensions:
            here, there = own[name][dimension], earlier[name][dimension]
            raw = scores[f"{name}.{dimension}"] * here["std"] + here["mean"]
            found[f"{name}.{dimension}"] = (raw - there["mean"]) / there["std"]
            own[name][dimension] = there
    found[STAMP] = json.dumps(own, sort_keys=True)
    found["reward"] = [reward(row, params) for row in found.to_dict("records")]
    return found
