"""Files of people's labels that `reelign bench-reward` reads: five layouts of pairs and one of rated clips, told apart by
the header.

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
    REACT-Video           path_A path_B A_model B_model prompt      A B same, or       the one of the same name
                          GSB_MQ (GSB_VQ ... where they are there)  G S B: A is good,
                                                                    same or bad
    ratings               path prompt VQ MQ TA Overall, any of      a number; pairs    the one of the same name;
                          them, or one column rating; [model]       from it            Overall for rating

A file with other names has them named: --columns path_A=left,label=vote, and --labels left=A,right=B,tie=same for its words.
A pair that stands in several rows, its sides exchanged or not, counts once; rows that contradict each other are refused.
Every layout is reported by the same figures (components/reward/metrics.py). Without ties: over pairs labelled A or B, equal
scores being wrong. With ties: three classes, "same" being said within a threshold, from the model's validation pairs or
fitted on these very pairs, as leaderboards do.

Sources. VideoGen-RewardBench (26,457 pairs of 12 generators, none of them from before Sora by the paper's Table 9, so no
figures by time): VideoAlign's eval_videogen_rewardbench.py, which scores a video once, under its first prompt; here each
distinct video and prompt is. GenAI-Bench (1,891 pairs in the paper): its table on the hub, whose videos are addresses, read
as names of files; the paper, App. H.2, for TA, and for 256x256 pixels a frame, which is not done here: frames are the
model's own plan. That `bothbad_vote` is a tie is our reading, the paper does not say: dropping those votes would give
random scores about 42% with ties by the shares of the first release's votes, counting them as ties about 35%, and the
paper's Table 2 has 33.67. REACT-Video is 500 pairs: its columns are those that public evaluation code reads; the words of
its labels are our reading, and --labels names others. Ratings: components/preferences/ratings.py.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np

from components.contracts import DIMENSIONS, LABEL_TEXT, LABELS, label_codes
from components.errors import BadInput
from components.files.csv_tables import read_rows
from components.preferences.agreement import decide
from components.preferences.columns import AS_IT_IS, Mapped
from components.preferences.paths import clip_path, stored_file
from components.preferences.ratings import CLIP_COLUMNS, RATING, Rated, is_ratings, read_ratings
from components.preferences.schema import (
    Pair,
    _absent,
    group_by_pair,
    pair_of,
    read_annotations,
    read_prompt,
)
from components.reward.scores import OVERALL, score_names

Item = tuple[str, str]  # path as in the CSV, prompt


@dataclass(frozen=True)
class Layout:
    """Columns that tell a layout, and how its label is read. `votes`: text of a label to 1 (A), -1 (B), 0 (same). `answer`:
    the score that answers the one label, None where each label has a score of its name after `prefix`. `published`: how many
    pairs the paper reports."""

    name: str
    paths: tuple[str, str]
    models: tuple[str, str]
    labels: tuple[str, ...]
    votes: dict[str, int]
    answer: str | None = None
    published: int | None = None
    prefix: str = ""

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
REACT = Layout(
    "REACT-Video",
    ("path_A", "path_B"),
    ("model_A", "model_B"),
    tuple(f"GSB_{name}" for name in DIMENSIONS),
    LABELS | {"G": 1, "S": 0},  # B is bad for A and better for B, so both sets of words fit
    published=500,
    prefix="GSB_",
)
LAYOUTS = (VIDEOGEN, GENAI, ONE_LABEL, CHOSEN, REACT)
COLUMNS = (
    *dict.fromkeys(column for known in LAYOUTS for column in (*known.paths, *known.models, *known.labels)),
    *CLIP_COLUMNS,
    RATING,
)
RATINGS = Layout("rated clips", ("path", "path"), ("model", "model"), (), LABELS)


@dataclass(frozen=True)
class Labelled:
    """Pairs of a CSV. `labels`: question to [N] int (1 A, -1 B, 0 same, NO_LABEL); `score_of`: question to the score that
    answers it; `rows`: line of the file of each pair; `votes`: question to how often each label stands there; `repeats`: how
    many rows say again what an earlier one said of the pair, and do not count. `rated`: the clips whose ratings decided the
    pairs, if ratings did."""

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
    rated: Rated | None = None

    def items(self) -> list[Item]:
        """Each distinct video and prompt, once; of ratings each rated clip, also one without a pair."""
        if self.rated is not None:
            return list(zip(self.rated.paths, self.rated.prompts, strict=True))
        sides = (zip(paths, self.prompts, strict=True) for paths in self.paths)
        return list(dict.fromkeys(item for side in sides for item in side))


def refuse(pairs: Labelled, reasons: Mapping[Item, str]) -> None:
    """BadInput for the first pair with a video that cannot be scored, where there is one: a benchmark over fewer pairs is
    another benchmark."""
    if pairs.rated is not None:
        for line, item in zip(pairs.rated.rows, pairs.items(), strict=True):
            if item in reasons:
                raise BadInput(pairs.file, reasons[item] + _more(pairs, reasons), row=line, key="path")
    for place, line in enumerate(pairs.rows):
        for paths, key in zip(pairs.paths, pairs.layout.paths, strict=True):
            why = reasons.get((paths[place], pairs.prompts[place]))
            if why is not None:
                raise BadInput(pairs.file, why + _more(pairs, reasons), row=line, key=key)


def _more(pairs: Labelled, reasons: Mapping[Item, str]) -> str:
    return f" (and {len(reasons) - 1} more of {len(pairs.items())} videos)" if len(reasons) > 1 else ""


def read_benchmark(
    file: Path,
    dimensions: list[str],
    answer: str | None = None,
    videos: Path | None = None,
    mapped: Mapped = AS_IT_IS,
    margin: float = 0.0,
    usual: str | None = None,
) -> Labelled:
    """Pairs of any layout, or those that ratings decide.

    answer: the score that answers the one label, where the layout has one. usual: that without `answer`, in place of the
    layout's. videos: the folder that paths are relative to, or below. mapped: names and words of the file's own. margin:
    ratings that differ by this or less are the same. BadInput names line and column, or what the header lacks for each
    layout.
    """
    with mapped.own_names():
        return _read(file, score_names(dimensions), answer, videos, mapped, margin, usual)


def _read(
    file: Path,
    scores: list[str],
    answer: str | None,
    videos: Path | None,
    mapped: Mapped,
    margin: float,
    usual: str | None,
) -> Labelled:
    header = mapped.header(file, [*COLUMNS, *scores])
    if is_ratings(header):
        if mapped.words:
            raise BadInput("--labels", f"{file} has ratings, which have no words")
        return _of_ratings(read_ratings(file, scores, videos, mapped), scores, answer, margin)
    fits = [layout for layout in LAYOUTS if not layout.missing(header)]
    if not fits:
        lacks = "; ".join(f"{', '.join(layout.missing(header))} for {layout.name}" for layout in LAYOUTS)
        raise BadInput(file, f"no layout of pairs: the header lacks {lacks}", row=1)
    if len(fits) > 1:
        raise BadInput(file, f"the header fits {' and '.join(layout.name for layout in fits)}: leave one's columns", row=1)
    layout = fits[0]
    if layout.answer is None:
        if answer is not None:
            raise BadInput("--answer", f"{file} is of {layout.name}: each label is answered by the score of its name")
        if layout is VIDEOGEN and not mapped.given:
            return _questions(file, scores, videos)
        columns = {name: layout.prefix + name for name in scores if layout.prefix + name in header}
        if not columns:
            raise BadInput(file, f"has a label for none of this model's scores: {', '.join(scores)}")
        return _rows(file, as_mapped(layout, mapped), columns, {name: name for name in columns}, videos, mapped)
    asked = {"preference": answered_by(usual or layout.answer, answer, scores)}
    columns = {"preference": next(iter(layout.labels), None)}
    return _rows(file, as_mapped(layout, mapped), columns, asked, videos, mapped)


def answered_by(usual: str, answer: str | None, scores: list[str]) -> str:
    """The score that answers the one label."""
    if (answer or usual) not in scores:
        raise BadInput("--answer", f"'{answer or usual}' is no score of this model: {', '.join(scores)}")
    return answer or usual


def as_mapped(layout: Layout, mapped: Mapped) -> Layout:
    """The layout under the file's own names and words: another set of pairs than the published one."""
    if not mapped.given:
        return layout
    words = dict(mapped.words) or layout.votes
    return replace(layout, name=f"{layout.name}, as mapped", votes=words, published=None)


def _of_ratings(rated: Rated, scores: list[str], answer: str | None, margin: float) -> Labelled:
    """The pairs of rated clips, with a question a column of ratings."""
    if RATING in rated.ratings:
        score_of = {RATING: answered_by(OVERALL, answer, scores)}
    elif answer is not None:
        raise BadInput("--answer", f"{rated.file} has ratings by name: each is answered by the score of its name")
    else:
        score_of = {name: name for name in rated.ratings}
    pairs = rated.pairs()
    labels = {name: label_codes(rated.labels(name, pairs, margin)) for name in score_of}
    votes = {name: dict(Counter(LABEL_TEXT.get(label, "none") for label in found)) for name, found in labels.items()}
    a, b = ([pair[side] for pair in pairs] for side in range(2))
    return Labelled(
        rated.file,
        RATINGS,
        [rated.rows[place] for place in a],
        [rated.prompts[place] for place in a],
        ([rated.paths[place] for place in a], [rated.paths[place] for place in b]),
        ([rated.models[place] for place in a], [rated.models[place] for place in b]),
        {name: np.array(found, int) for name, found in labels.items()},
        score_of,
        votes,
        rated.repeats,
        rated,
    )


def _questions(file: Path, scores: list[str], videos: Path | None) -> Labelled:
    annotations = read_annotations(file, root=videos)
    pairs, repeats = group_by_pair(file, annotations)
    views = [of_pair[0] for of_pair in pairs]
    decided = [of_pair[0].labels if len(of_pair) == 1 else decide(file, of_pair)[0] for of_pair in pairs]
    wanted = [name for name in scores if any(labels.get(name) is not None for labels in decided)]
    if not wanted:
        raise BadInput(file, f"has a label for none of this model's scores: {', '.join(scores)}")
    labels = {name: np.array(label_codes(of[name] for of in decided)) for name in wanted}
    votes = {name: Counter(LABEL_TEXT.get(label, "none") for label in labels[name].tolist()) for name in wanted}
    whole = {"VQ", "MQ", "TA"} <= {name for name in DIMENSIONS if any(of[name] is not None for of in decided)}
    a, b = ([_stored(videos, getattr(view, column)) for view in views] for column in VIDEOGEN.paths)
    return Labelled(
        file,
        VIDEOGEN if whole else replace(VIDEOGEN, name="labels by question", published=None),
        [view.row for view in views],
        [view.prompt for view in views],
        (a, b),
        ([view.model_A or "unknown" for view in views], [view.model_B or "unknown" for view in views]),
        labels,
        {name: name for name in wanted},
        {name: dict(count) for name, count in votes.items()},
        repeats,
    )


def _rows(
    file: Path,
    layout: Layout,
    columns: Mapping[str, str | None],
    score_of: dict[str, str],
    videos: Path | None,
    mapped: Mapped,
) -> Labelled:
    """A pair a row. `columns`: question to the column of its label, None where A is the better one by the layout. Of several
    questions some may have no label in a row."""
    lines, prompts, repeats = [], [], 0
    labels: dict[str, list[int | None]] = {name: [] for name in columns}
    votes = {name: Counter() for name in columns}
    paths, models, addresses = ([], []), ([], []), {}
    known: dict[Pair, int] = {}  # place of each pair
    wanted = [column for column in columns.values() if column is not None]
    aliases = mapped.aliases()
    for line, cells in read_rows(file, (*layout.paths, "prompt", *wanted), layout.models, aliases=aliases):
        prompt = read_prompt(file, line, cells)
        said = {name: "A" if column is None else cells[column] for name, column in columns.items()}
        found = {name: _vote(file, line, layout, columns[name], text, len(columns) > 1) for name, text in said.items()}
        if all(vote is None for vote in found.values()):
            raise BadInput(file, "no label", row=line, key=wanted[0])
        a, b = (_video(file, line, key, cells[key], addresses, videos) for key in layout.paths)
        if a == b:
            raise BadInput(file, "a clip is compared with itself", row=line, key=layout.paths[1])
        place = known.setdefault(pair_of(prompt, a, b), len(lines))
        if place < len(lines):
            for name, vote in found.items():
                same_sides = vote if vote is None or a == paths[0][place] else -vote
                if same_sides != labels[name][place]:
                    raise BadInput(file, f"contradicts row {lines[place]}", row=line, key=columns[name] or layout.paths[0])
            repeats += 1
            continue
        for side, path in enumerate((a, b)):
            paths[side].append(path)
            models[side].append(cells.get(layout.models[side]) or "unknown")
        lines.append(line)
        prompts.append(prompt)
        for name, vote in found.items():
            labels[name].append(vote)
            votes[name][said[name] if vote is not None else "none"] += 1
    if not lines:
        raise BadInput(file, "no pairs")
    codes = {name: np.array(label_codes(found)) for name, found in labels.items()}
    counted = {name: dict(count) for name, count in votes.items()}
    own = replace(layout, paths=(mapped.own(layout.paths[0]), mapped.own(layout.paths[1])))  # for errors
    return Labelled(file, own if mapped.given else layout, lines, prompts, paths, models, codes, score_of, counted, repeats)


def _vote(file: Path, line: int, layout: Layout, column: str | None, text: str, may_lack: bool) -> int | None:
    if may_lack and _absent(text):
        return None
    if text not in layout.votes:
        raise BadInput(file, f"'{text}' is not {', '.join(layout.votes)}", row=line, key=column)
    return layout.votes[text]


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
    """The path as it is stored below `videos`; as it is where it is not there, which a later check names, for all."""
    return path if videos is None else stored_file(videos, path) or path
