"""Training data of alignment: cached latents and conditioning of pairs or single candidates, read on demand."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from components.contracts import ALIGNMENT_PAIRS, CANDIDATE_SCORES, CANDIDATES
from components.errors import BadInput
from components.files.tables import read_table
from components.generator.conditioning import Conditioning
from components.generator.shards import ROWS, ConditioningShards, Shards
from components.schemas import CANDIDATES_SCHEMA


@dataclass(frozen=True)
class Candidates:
    """Normalised latents, one row [C, T', H', W'] per candidate; conditioning, one row per prompt, the empty prompt's last;
    and the table of candidates."""

    latents: Shards
    prompts: ConditioningShards
    table: pd.DataFrame

    def text(self, rows: Sequence[int] | np.ndarray) -> Conditioning:
        """Conditioning on the prompts of candidates."""
        return self.prompts[self.table.text_row.iloc[rows]]

    def empty_text(self) -> Conditioning:
        """Conditioning on the empty prompt, one row, without an image."""
        return self.prompts[[len(self.prompts) - 1]].of_prompt()

    def rows(self, ids: pd.Series, file: Path) -> np.ndarray:
        """Row indices of candidates in the latents; BadInput names the row of `file` whose candidate has no latents."""
        places = pd.Series(self.table.row.to_numpy(), index=self.table.candidate_id)
        missing = ~ids.isin(places.index)
        if missing.any():
            row = int(missing.to_numpy().argmax())
            raise BadInput(file, f"candidate {ids.iloc[row]} has no latents", row=row, key=str(ids.name))
        return places.loc[ids].to_numpy(copy=True)


def load_candidates(base: str, folder: Path = CANDIDATES) -> Candidates:
    """The candidates in `folder`; BadInput where their latents come from another base generator than the one with digest
    `base`."""
    table = pd.DataFrame(read_table(folder / "candidates.parquet", CANDIDATES_SCHEMA))
    made_from = {"base generator": base}
    latents, prompts = Shards(folder / "latents", made_from), ConditioningShards(folder / "text", made_from)
    if len(latents) != len(table):
        raise BadInput(folder / "latents", f"{len(latents)} latents for {len(table)} candidates")
    for place, part in enumerate(latents.parts):
        if (shape := part[ROWS].shape[1:]) != latents.shape:
            file = folder / f"latents/{place:05d}.safetensors"
            raise BadInput(file, f"latents of shape {list(shape)}, earlier files have {list(latents.shape)}")
    return Candidates(latents, prompts, table)


@dataclass(frozen=True)
class Pairs:
    """Pairs of candidates: row indices of chosen and rejected [N], loss weights [N], whether each is a tie [N]."""

    candidates: Candidates
    chosen: np.ndarray
    rejected: np.ndarray
    weights: torch.Tensor
    tied: torch.Tensor
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def labelled_by(self) -> str:
        """Version of the reward model that labelled the pairs."""
        return self.table.reward_model.iloc[0]

    def latents(self, indices: Sequence[int]) -> torch.Tensor:
        """[2 B, C, T', H', W']: the chosen clips, then the rejected ones."""
        return self.candidates.latents[[*self.chosen[indices], *self.rejected[indices]]]

    def text(self, indices: Sequence[int]) -> Conditioning:
        """Conditioning [B], shared by both clips of a pair."""
        return self.candidates.text(self.chosen[indices])


def load_pairs(candidates: Candidates, file: Path = ALIGNMENT_PAIRS) -> Pairs:
    return pairs_of(candidates, pd.DataFrame(read_table(file)), file)


def pairs_of(candidates: Candidates, table: pd.DataFrame, file: Path) -> Pairs:
    """Pairs of a table of alignment_pairs_schema. file: where it is from, for errors."""
    refuse_several(table, file)
    chosen, rejected = candidates.rows(table.chosen, file), candidates.rows(table.rejected, file)
    weights, tied = torch.tensor(table.weight.to_numpy(copy=True)).float(), torch.tensor(table.tied.to_numpy(copy=True))
    return Pairs(candidates, chosen, rejected, weights, tied, table)


def load_scores(candidates: Candidates) -> pd.DataFrame:
    """The row of CANDIDATE_SCORES of each candidate, in their order."""
    scores = pd.DataFrame(read_table(CANDIDATE_SCORES)).set_index("candidate_id")
    refuse_several(scores, CANDIDATE_SCORES)
    missing = ~candidates.table.candidate_id.isin(scores.index)
    if missing.any():
        row = int(missing.to_numpy().argmax())
        raise BadInput(CANDIDATE_SCORES, f"no score for candidate {candidates.table.candidate_id[row]}", key="candidate_id")
    return scores.loc[candidates.table.candidate_id].reset_index()


def load_rewards(candidates: Candidates) -> np.ndarray:
    """The relabelled reward of each candidate, [N]."""
    return load_scores(candidates).reward.to_numpy()


def refuse_several(table: pd.DataFrame, file: Path) -> None:
    """BadInput where labels are of more than one reward model: their scores are not of one scale."""
    if len(models := sorted(set(table.reward_model))) > 1:
        raise BadInput(file, f"labelled by several reward models: {', '.join(models)}", key="reward_model")
