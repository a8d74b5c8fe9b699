"""What alignment trains on, in memory: cached latents and text embeddings of pairs or of single candidates."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from components.alignment.candidates import FOLDER
from components.alignment.candidates import SCHEMA as CANDIDATES
from components.errors import BadInput
from components.tables import read_table

PAIRS = Path("data/alignment_pairs.parquet")
SCORES = Path("data/candidate_scores.parquet")


@dataclass(frozen=True)
class Candidates:
    """Normalised latents [N, C, T', H', W'], text embeddings [N, L, D] of their prompts and [L, D] of the empty one, and
    the table that names them."""

    latents: torch.Tensor
    text: torch.Tensor
    empty: torch.Tensor
    table: pd.DataFrame

    def rows(self, ids: pd.Series, file: Path) -> np.ndarray:
        """Places of candidates; BadInput names the row of `file` whose candidate has no latents."""
        places = pd.Series(self.table.row.to_numpy(), index=self.table.candidate_id)
        missing = ~ids.isin(places.index)
        if missing.any():
            row = int(missing.to_numpy().argmax())
            raise BadInput(file, f"candidate {ids.iloc[row]} has no latents in {FOLDER}", row=row, key=ids.name)
        return places[ids].to_numpy(copy=True)


def load_candidates() -> Candidates:
    table = pd.DataFrame(read_table(FOLDER / "candidates.parquet", CANDIDATES))
    latents = load_file(FOLDER / "latents.safetensors")["latents"]
    text = load_file(FOLDER / "text.safetensors")["text"]
    if len(latents) != len(table):
        raise BadInput(FOLDER / "latents.safetensors", f"{len(latents)} latents for {len(table)} candidates")
    return Candidates(latents, text[table.text_row.to_numpy(copy=True)], text[-1], table)


@dataclass(frozen=True)
class Pairs:
    """Chosen and rejected latents [N, C, T', H', W'] and the text [N, L, D] they share."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    text: torch.Tensor
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.chosen)


def load_pairs(candidates: Candidates) -> Pairs:
    table = pd.DataFrame(read_table(PAIRS))
    chosen = candidates.rows(table.chosen, PAIRS)
    rejected = candidates.rows(table.rejected, PAIRS)
    return Pairs(candidates.latents[chosen], candidates.latents[rejected], candidates.text[chosen], table)


def load_rewards(candidates: Candidates) -> np.ndarray:
    """The relabelled reward of each candidate, [N]."""
    scores = pd.DataFrame(read_table(SCORES)).set_index("candidate_id")
    missing = ~candidates.table.candidate_id.isin(scores.index)
    if missing.any():
        row = int(missing.to_numpy().argmax())
        raise BadInput(SCORES, f"no score for candidate {candidates.table.candidate_id[row]}", key="candidate_id")
    return scores.loc[candidates.table.candidate_id, "reward"].to_numpy()
