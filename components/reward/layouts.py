"""Files of labelled pairs of videos that `reelign bench-reward` reads: four layouts, told apart by the header.

Each with its protocol:

    layout                columns                                   a label            the score that answers it
    VideoGen-RewardBench  path_A path_B prompt VQ MQ TA [Overall]   A B same, one a    the one of the same name
                          [A_model B_model]; VideoAlign's own too   question
                          (any of the four labels will do)
    GenAI-Bench           left_video right_video prompt vote_type   leftvote A,        TA alone, as in the paper;
                          left_model right_model                    rightvote B,       another with --answer
                                                                    both others same
    one label             path_A path_B prompt label                A B same           Overall; another with --answer
                          [model_A model_B]
    chosen and rejected   chosen rejected prompt                    chosen is better   Overall; another with --answer
                          [chosen_model rejected_model]

A pair that stands in several rows, its sides exchanged or not, counts once; rows that contradict each other are refused.
Every layout is told by the same figures (components/reward/figures.py). Without ties: over pairs labelled A or B, equal
scores being wrong. With ties: three classes, "same" being said within a threshold, from the model's validation pairs or
fitted on these very pairs, as leaderboards do.

Sources. VideoGen-RewardBench (26,457 pairs of 12 generators, none of them from before Sora by the paper's Table 9, so no
figures by time): VideoAlign's eval_videogen_rewardbench.py, which scores a video once, under its first prompt; here each
distinct video and prompt is. GenAI-Bench (1,891 pairs in the paper): its table on the hub, whose videos are addresses, read
as names of files; the paper, App. H.2, for TA, and for 256x256 pixels a frame, which is not done here: frames are the
model's own plan. That `bothbad_vote` is a tie is our reading, the paper does not say: dropping those votes would give
random scores about 42% with ties by the shares of the first release's votes, counting them as ties about 35%, and the
paper's Table 2 has 33.67. REACT-Video is 500 pairs with one label each; its files are not published that we know of, so the
layout is ours.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np

from components.csv_files import read_header, read_rows
from components.errors import BadInput
from components.preferences.agreement import decide
from components.preferences.paths import clip_path, stored_file
from components.preferences.schema import (
    ALIASES,
    DIMENSIONS,
    LABEL_TEXT,
    LABELS,
    Pair,
    group_by_pair,
    pair_of,
    read_annotations,
    read_prompt,
)
from components.reward.pairs import NO_LABEL
from components.reward.scores import OVERALL, score_names

Item = tuple[str, str]  # path as in the CSV, prompt


@dataclass(frozen=True)
class Layout:
    """Columns that tell a layout, and how its label is read. `votes`: text of a label to 1 (A), -1 (B), 0 (same). `answer`:
    the score that answers the one label, None where each label has a score of its name. `published`: how many pairs the
    paper reports."""

    name: str
    paths: tuple[str, str]
    models: tuple[str, str]
    labels: tuple[str, ...]
    votes: dict[str, int]
    answer: str | None = None
    published: int | None = None

    def missing(self, header: Sequence[str]) -> list[str]:
        """Columns that the header lacks; of several labels any one will do."""
        labelled = not self.labels or set(self.labels) & set(header)
        lacking = [] if labelled else [" or ".join(self.labels)]
        return [*(column for column in (*self.paths, "prompt") if column not in header), *lacking]


VIDEOGEN = Layout("VideoGen-RewardBench", ("path_A", "path_B"), ("model_A", "model_B"), DIMENSIONS, LABELS, published=26_457)
GENAI = Layout(
    "GenAI-Bench",
    ("left_video", "right_video"),
    ("left_model", "right_model"),
    ("vote_type",),
    {"leftvote": 1, "rightvote": -1, "tievote": 0, "bothbad_vote": 0},
    answer="TA",
    published=1_891,
)
ONE_LABEL = Layout("the one-label layout", ("path_A", "path_B"), ("model_A", "model_B"), ("label",), LABELS, answer=OVERALL)
CHOSEN = Layout("chosen and rejected", ("chosen", "rejected"), ("model_A", "model_B"), (), {"A": 1}, answer=OVERALL)
LAYOUTS = (VIDEOGEN, GENAI, ONE_LABEL, CHOSEN)


@dataclass(frozen=True)
class Labelled:
    """Pairs of a CSV. `labels`: question to [N] int (1 A, -1 B, 0 same, NO_LABEL); `score_of`: question to the score that
    answers it; `rows`: line of the file of each pair; `votes`: question to how often each label stands there; `repeats`: how
    many rows say again what an earlier one said of the pair, and do not count."""

    file: Path
    layout: Layout
    rows: list[int]
    prompts: list[str]
    paths: tuple[list[str], list[str]]
    models: tuple[list[str], list[str]]
    labels: dict[str, np.ndarray]
    score_of: dict[str, str]
    votes: dict[str, dict[str, int]]
    repeats: int

    def items(self) -> list[Item]:
        """Each distinct video and prompt, once."""
        sides = (zip(paths, self.prompts, strict=True) for paths in self.paths)
        return list(dict.fromkeys(item for side in sides for item in side))


def refuse(pairs: Labelled, reasons: Mapping[Item, str]) -> None:
    """BadInput for the first pair with a video that cannot be scored, where there is one: a benchmark over fewer pairs is
    another benchmark."""
    for place, line in enumerate(pairs.rows):
        for paths, key in zip(pairs.paths, pairs.layout.paths, strict=True):
            why = reasons.get((paths[place], pairs.prompts[place]))
            if why is not None:
                more = f" (and {len(reasons) - 1} more of {len(pairs.items())} videos)" if len(reasons) > 1 else ""
                raise BadInput(pairs.file, why + more, row=line, key=key)


def read_benchmark(file: Path, dimensions: list[str], answer: str | None = None, videos: Path | None = None) -> Labelled:
    """Pairs of any layout. `answer`: the score that answers the one label, where the layout has one; `videos`: the folder
    that paths are relative to, or below. BadInput names line and column, or what the header lacks for each layout."""
    header = read_header(file, aliases=ALIASES)
    fits = [layout for layout in LAYOUTS if not layout.missing(header)]
    if not fits:
        lacks = "; ".join(f"{', '.join(layout.missing(header))} for {layout.name}" for layout in LAYOUTS)
        raise BadInput(file, f"no layout of pairs: the header lacks {lacks}", row=1)
    if len(fits) > 1:
        raise BadInput(file, f"the header fits {' and '.join(layout.name for layout in fits)}: leave one's columns", row=1)
    layout, scores = fits[0], score_names(dimensions)
    if layout.answer is None:
        if answer is not None:
            raise BadInput("--answer", f"{file} is of {layout.name}: each label is answered by the score of its name")
        return _questions(file, scores, videos)
    if (answer or layout.answer) not in scores:
        raise BadInput("--answer", f"'{answer or layout.answer}' is no score of this model: {', '.join(scores)}")
    return _one_label(file, layout, answer or layout.answer, videos)


def _questions(file: Path, scores: list[str], videos: Path | None) -> Labelled:
    annotations = read_annotations(file, root=videos)
    pairs, repeats = group_by_pair(file, annotations)
    views = [of_pair[0] for of_pair in pairs]
    decided = [of_pair[0].labels if len(of_pair) == 1 else decide(file, of_pair)[0] for of_pair in pairs]
    wanted = [name for name in scores if any(labels.get(name) is not None for labels in decided)]
    if not wanted:
        raise BadInput(file, f"has a label for none of this model's scores: {', '.join(scores)}")
    labels = {name: np.array([NO_LABEL if of[name] is None else of[name] for of in decided]) for name in wanted}
    votes = {name: Counter(LABEL_TEXT.get(label, "none") for label in labels[name].tolist()) for name in wanted}
    whole = {"VQ", "MQ", "TA"} <= {name for name in DIMENSIONS if any(of[name] is not None for of in decided)}
    return Labelled(
        file,
        VIDEOGEN if whole else replace(VIDEOGEN, name="labels by question", published=None),
        [view.row for view in views],
        [view.prompt for view in views],
        tuple([_stored(videos, getattr(view, column)) for view in views] for column in VIDEOGEN.paths),
        ([view.model_A or "unknown" for view in views], [view.model_B or "unknown" for view in views]),
        labels,
        {name: name for name in wanted},
        {name: dict(count) for name, count in votes.items()},
        repeats,
    )


def _one_label(file: Path, layout: Layout, answer: str, videos: Path | None) -> Labelled:
    lines, prompts, labels, votes, repeats = [], [], [], Counter(), 0
    paths, models, addresses = ([], []), ([], []), {}
    known: dict[Pair, int] = {}  # place of each pair
    for line, cells in read_rows(file, (*layout.paths, "prompt", *layout.labels), layout.models, aliases=ALIASES):
        prompt = read_prompt(file, line, cells)
        vote = cells[layout.labels[0]] if layout.labels else "A"
        if vote not in layout.votes:
            raise BadInput(file, f"'{vote}' is not {', '.join(layout.votes)}", row=line, key=layout.labels[0])
        a, b = (_video(file, line, key, cells[key], addresses, videos) for key in layout.paths)
        if a == b:
            raise BadInput(file, "a clip is compared with itself", row=line, key=layout.paths[1])
        place = known.setdefault(pair_of(prompt, a, b), len(lines))
        if place < len(lines):
            same_sides = layout.votes[vote] if a == paths[0][place] else -layout.votes[vote]
            if same_sides != labels[place]:
                raise BadInput(file, f"contradicts row {lines[place]}", row=line, key=(*layout.labels, layout.paths[0])[0])
            repeats += 1
            continue
        for side, path in enumerate((a, b)):
            paths[side].append(path)
            models[side].append(cells.get(layout.models[side]) or "unknown")
        lines.append(line)
        prompts.append(prompt)
        labels.append(layout.votes[vote])
        votes[vote] += 1
    if not lines:
        raise BadInput(file, "no pairs")
    answers = {"preference": np.array(labels)}, {"preference": answer}, {"preference": dict(votes)}
    return Labelled(file, layout, lines, prompts, paths, models, *answers, repeats)


def _video(file: Path, line: int, key: str, text: str, addresses: dict[str, str], videos: Path | None) -> str:
    """A path below --videos. An address (https://...) is read as the name of its file, of which `addresses` keeps whose it
    is: two of one name would be scored as one video."""
    name = text
    if text.startswith(("https://", "http://")):
        name = PurePosixPath(urlsplit(text).path).name
        if addresses.setdefault(name, text) != text:
            raise BadInput(file, f"{name} is the file of {addresses[name]} too", row=line, key=key)
    try:
        return _stored(videos, clip_path(name, videos))
    except ValueError as error:
        raise BadInput(file, str(error), row=line, key=key) from error


def _stored(videos: Path | None, path: str) -> str:
    """The path as it is stored below `videos`; as it is where it is not there, which is said later, of all."""
    return path if videos is None else stored_file(videos, path) or path
