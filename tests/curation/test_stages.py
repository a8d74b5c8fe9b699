"""source, curate and pairs on a small folder of VideoAlign's layout, and what each refuses."""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from components.config.params import CurateParams, FolderSource, JudgeRewardParams, MeasureParams, Rule, SplitParams
from components.curation.curate import curate, verdict
from components.curation.measure import measure
from components.curation.source import source
from components.errors import BadInput
from components.files.tables import read_table
from components.pipeline.stage import MEASURED, write_json
from components.preferences.pairs import pairs
from components.preferences.split import SPLITS
from components.schemas import CLIPS_SCHEMA, PAIRS_SCHEMA
from tests.limits import LIMIT_PARAMS

NO_SCORES = Path(__file__).parents[2] / "infra/no_scores.csv"
HEADER = "path_A,path_B,prompt,VQ,MQ,TA,fps_A,num_frames_A,fps_B,num_frames_B"


class PlainStage:
    """What the four stages use of a Stage, without a pipeline around it; outputs go to the working folder at once."""

    def __init__(
        self,
        folder: Path,
        rules: dict[str, Rule] | None = None,
        scheme: str = "round_robin",
        scores: Path = NO_SCORES,
        engine: str = "local",
        workers: int = 1,
        dimensions: tuple[str, ...] = ("VQ", "MQ", "TA"),
        judge: dict[str, float] | None = None,
    ):
        self.said: list[str] = []
        self.params = SimpleNamespace(
            source=FolderSource(kind="folder", folder=str(folder), csv="labels.csv"),
            limits=LIMIT_PARAMS,
            measure=MeasureParams(engine=engine, workers=workers, chunk=2, optical_flow=True),
            curate=CurateParams(scores=str(scores), rules=rules or {}),
            reward=SimpleNamespace(dimensions=dimensions),
            judge_reward=JudgeRewardParams(held_out=judge or {}),
            split=SplitParams(scheme=scheme, seed=5, validation=0.1, test=0.3),
        )

    def output(self, path: str) -> Path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return Path(path)

    def state(self) -> Path:
        Path("state").mkdir(exist_ok=True)
        return Path("state")

    def progress(self, items, what, total=None):
        return iter(items)

    def measured(self, facts):
        write_json(MEASURED / "source.json", facts)

    def log(self, metrics, step=None):
        assert all(isinstance(value, int | float) for value in metrics.values())

    def say(self, text):
        self.said.append(text)


def labels(folder: Path, rows: list[str]) -> None:
    (folder / "labels.csv").write_text("\n".join([HEADER, *rows]) + "\n")


def rows_of(folder: Path) -> list[str]:
    return (folder / "labels.csv").read_text().splitlines()[1:]


def run(stage: PlainStage) -> dict:
    for body in (source, measure, curate, pairs):
        body(stage)
    return json.loads(Path("metrics/pairs.json").read_text())


def test_from_a_folder_to_pairs(folder):
    labels(folder, rows_of(folder) + rows_of(folder)[:2])
    stage = PlainStage(folder)
    report = run(stage)
    assert any("2 rows dropped: they repeat an earlier row" in line for line in stage.said)
    assert json.loads(Path("metrics/source.json").read_text())["duplicate_rows_dropped"] == 2
    clips = read_table("data/clips.parquet", CLIPS_SCHEMA)
    assert [clip["clip"] for clip in clips] == [f"{n}_{side}.mp4" for n in range(3) for side in "AB"]
    assert {clip["status"] for clip in clips} == {"ok"}
    made = [
        row for name in ("train", "validation", "test") for row in read_table(f"data/pairs/{name}.parquet", PAIRS_SCHEMA)
    ]
    assert sorted(row["prompt"] for row in made) == ["prompt 0", "prompt 1", "prompt 2"]
    for row in made:
        assert (row["VQ"], row["MQ"], row["TA"], row["Overall"], row["decided_by"]) == (1, 0, -1, None, "given")
    assert report["splits"]["test"] == {"pairs": 1, "prompts": 1}
    assert report["dimensions"]["MQ"]["tie_share"] == 1 and report["dimensions"]["Overall"]["labelled"] == 0
    assert report["krippendorff_alpha"] is None


def test_pairs_of_a_share_of_the_prompts_are_the_judges_alone(folder):
    """Every prompt comes a second time with its words in another order, and each such pair of prompts is one group."""
    prompts = [text for n in range(12) for text in (f"dog number {n} runs", f"runs number {n} dog")]
    row = "videos/{}_A.mp4,videos/{}_B.mp4,{},A,same,B,8.0,8.0,8.0,8.0"
    labels(folder, [row.format(n % 3, n % 3, prompt) for n, prompt in enumerate(prompts)])
    whole = run(PlainStage(folder))
    before = {name: read_table(f"data/pairs/{name}.parquet") for name in SPLITS}
    assert not Path("data/pairs/judge").exists() and "judge_splits" not in whole
    shutil.rmtree("data/pairs")
    stage = PlainStage(folder, judge={"prompts": 0.5})
    report = run(stage)
    seen = {}
    for part in ("", "judge/"):
        for name in SPLITS:
            rows = read_table(f"data/pairs/{part}{name}.parquet", PAIRS_SCHEMA)
            seen[part, name] = {" ".join(sorted(row["prompt"].split())) for row in rows}
            counts = report["judge_splits" if part else "splits"][name]
            assert len(rows) == counts["pairs"] == counts["prompts"] == 2 * len(seen[part, name]) == 4
            assert all(row in before[name] for row in rows), "a prompt's split is the same with and without a judge"
    assert sum(map(len, seen.values())) == len(set().union(*seen.values())) == 12, "no group in both parts"
    assert whole == {key: report[key] for key in whole if key != "splits"} | {"splits": whole["splits"]}
    assert stage.said[-1] == "the judge's alone: train 4, validation 4, test 4"
    shutil.rmtree("data/pairs")
    with pytest.raises(BadInput, match=r"into split 'train' for the judge \(judge_reward.held_out\) \(of 0\)"):
        pairs(PlainStage(folder, judge={"prompts": 0.05}))


def test_labels_of_a_share_of_the_annotators_are_the_judges_alone(folder):
    """Ann, Bob and Cy label each pair, and disagree on MQ; VQ is B for Ann alone."""
    header = "path_A,path_B,prompt,annotator,VQ,MQ,TA"
    names = {"ann": "B,A,same", "bob": "A,B,same", "cy": "A,same,same", "reviewer": ",A,"}
    row = "videos/{0}_A.mp4,videos/{0}_B.mp4,prompt {0},{1},{2}"
    rows = [row.format(n, name, labels) for n in range(3) for name, labels in names.items()]
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    for share in (0.01, 0.99):  # of three at least one, and not all
        stage = PlainStage(folder, judge={"annotators": share})
        report = run(stage)
        judged, own = (
            [row for name in SPLITS for row in read_table(f"data/pairs/{part}{name}.parquet", PAIRS_SCHEMA)]
            for part in ("judge/", "")
        )
        assert len(judged) == len(own) == 3 and {row["pair_id"] for row in judged} == {row["pair_id"] for row in own}
        theirs, ours = set(judged[0]["annotators"]), set(own[0]["annotators"])
        assert not theirs & ours and theirs | ours == set(names) and "reviewer" in ours
        assert len(theirs) == (1 if share < 0.5 else 2)
        for part, people in ((judged, theirs), (own, ours)):
            for made in part:
                votes = {name: names[name].split(",") for name in people - {"reviewer"}}
                assert made["decided_by"] == ("reviewer" if people >= {"reviewer"} and len(votes) > 1 else "votes")
                assert made["TA"] == 0 and len(made["rows"]) == len(people)
                if len(votes) == 1:
                    (vote,) = votes.values()
                    assert [made["VQ"], made["MQ"]] == [{"A": 1, "B": -1, "same": 0}[label] for label in vote[:2]]
                elif people >= {"reviewer"}:
                    assert made["MQ"] == 1, "the two differ, and the reviewer decides"
                else:
                    assert made["MQ"] is None, "the two differ, and nobody decides"
        assert report["judge_splits"]["test"] == {"pairs": 1, "prompts": 1} and report["pairs"] == 3
        assert stage.said[-1] == "the judge's alone: train 1, validation 1, test 1"
        shutil.rmtree("data/pairs")
    labels(folder, ["videos/0_A.mp4,videos/0_B.mp4,prompt,A,A,A,8,9,8,9"])
    with pytest.raises(BadInput, match=r"key 'annotator': judge_reward.held_out keeps a share .* and there are 0"):
        run(PlainStage(folder, judge={"annotators": 0.5}))


def test_a_missing_video_is_named_by_source(folder):
    (folder / "videos/1_B.mp4").unlink()
    with pytest.raises(BadInput, match=r"labels.csv, row 3, key 'path_B': no such video: .*videos/1_B.mp4"):
        source(PlainStage(folder))


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    (folder / "videos/1_B.mp4").rename(tmp_path / "outside.mp4")
    (folder / "videos/1_B.mp4").symlink_to(tmp_path / "outside.mp4")
    with pytest.raises(BadInput, match=r"row 3, key 'path_B': .* is a link that leaves the folder"):
        source(PlainStage(folder))


def test_a_folder_that_is_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    (folder / "videos").rename(tmp_path / "outside")
    (folder / "videos").symlink_to(tmp_path / "outside")
    with pytest.raises(BadInput, match=r"labels.csv, row 2, key 'path_A': .*/0_A.mp4 is a link that leaves the folder"):
        source(PlainStage(folder))


def test_links_within_the_folder_are_followed(folder):
    (folder / "videos/1_B.mp4").rename(folder / "elsewhere.mp4")
    (folder / "videos/1_B.mp4").symlink_to("../elsewhere.mp4")
    source(PlainStage(folder))
    made = Path("data/source/videos/1_B.mp4")
    assert not made.is_symlink() and made.read_bytes() == (folder / "elsewhere.mp4").read_bytes()


@pytest.mark.parametrize("path", ["../given/videos/0_A.mp4", "videos/../../given/videos/0_A.mp4", "{folder}/../0_A.mp4"])
def test_a_path_that_leaves_the_folder_is_refused_even_where_it_comes_back(folder, path):
    path = path.format(folder=folder)
    labels(folder, [*rows_of(folder), f"videos/0_B.mp4,{path},prompt 3,A,same,B,8.0,8.0,8.0,8.0"])
    with pytest.raises(BadInput, match=rf"labels.csv, row 5, key 'path_B': '{path}' is not a path inside the folder"):
        source(PlainStage(folder))


def test_a_csv_outside_the_folder_is_refused(folder, tmp_path):
    stage = PlainStage(folder)
    for csv in ("../labels.csv", str(folder / "labels.csv")):
        stage.params.source = FolderSource(kind="folder", folder=str(folder), csv=csv)
        with pytest.raises(BadInput, match=rf"params.yaml, key 'source.csv': '{csv}' is not a path inside the folder"):
            source(stage)
    (folder / "labels.csv").rename(tmp_path / "labels.csv")
    (folder / "labels.csv").symlink_to(tmp_path / "labels.csv")
    with pytest.raises(BadInput, match=r"given/labels.csv: a link that leaves the folder"):
        source(PlainStage(folder))


def test_one_name_in_two_unicode_forms_is_refused(folder):
    composed, decomposed = "videos/caf\u00e9.mp4", "videos/cafe\u0301.mp4"
    for clip in (composed, decomposed):
        (folder / clip).write_bytes((folder / "videos/0_A.mp4").read_bytes())
    row = "videos/0_B.mp4,{},prompt {},A,same,B,8.0,8.0,8.0,8.0"
    labels(folder, [*rows_of(folder), row.format(composed, 3)])
    source(PlainStage(folder))
    assert Path(f"data/source/{composed}").exists()
    labels(folder, [*rows_of(folder), row.format(decomposed, 4)])
    with pytest.raises(BadInput, match=r"row 6, key 'path_B': '.*' is the name in row 5 in another Unicode form"):
        source(PlainStage(folder))


def test_a_broken_video_is_a_row_in_curate_and_an_error_in_pairs(folder):
    (folder / "videos/2_A.mp4").write_bytes(b"not a video")
    stage = PlainStage(folder)
    source(stage)
    measure(stage)
    curate(stage)
    broken = [clip for clip in read_table("data/clips.parquet") if clip["status"] == "broken"]
    assert [clip["clip"] for clip in broken] == ["2_A.mp4"] and broken[0]["reason"].startswith("unreadable")
    with pytest.raises(BadInput, match=r"annotations.csv, row 4, key 'path_A': video 2_A.mp4: unreadable"):
        pairs(stage)


@pytest.mark.ray
def test_the_measures_are_the_same_from_any_engine(folder):
    (folder / "videos/2_A.mp4").write_bytes(b"not a video")
    source(PlainStage(folder))
    made = []
    for engine, workers in (("local", 1), ("local", 2), ("ray", 2)):
        shutil.rmtree("state", ignore_errors=True)
        measure(PlainStage(folder, engine=engine, workers=workers))
        made.append(Path("data/measures.parquet").read_bytes())
        assert len(list(Path("state").glob("chunk-*.json"))) == 3
    assert made[0] == made[1] == made[2]
    assert Counter(clip["broken"] is None for clip in read_table("data/measures.parquet")) == {True: 5, False: 1}


def test_a_video_that_curate_never_saw(folder):
    stage = PlainStage(folder)
    source(stage)
    measure(stage)
    curate(stage)
    path = Path("data/source/annotations.csv")
    path.write_text(path.read_text().replace("0_A.mp4", "9_A.mp4"))
    with pytest.raises(BadInput, match=r"row 2, key 'path_A': no such video: 9_A.mp4"):
        pairs(stage)


def test_no_near_duplicate_prompt_in_chinese_crosses_the_split(folder):
    """Thirty prompts of 40 characters, each with another word in a second row: no two of them are on two sides."""
    rng = np.random.default_rng(0)
    prompts = []
    for _ in range(30):
        first = "".join(chr(0x4E00 + at) for at in rng.choice(3000, 40, replace=False))
        prompts += [first, f"{first[:17]}木桌{first[19:]}"]
    labels(folder, [f"videos/0_A.mp4,videos/0_B.mp4,{prompt},A,B,A,,,," for prompt in prompts])
    report = run(PlainStage(folder, scheme="hash"))
    assert report["pairs"] == 60
    side = {row["prompt"]: name for name in SPLITS for row in read_table(f"data/pairs/{name}.parquet", PAIRS_SCHEMA)}
    assert [(one, other) for one, other in zip(prompts[::2], prompts[1::2], strict=True) if side[one] != side[other]] == []


def test_an_empty_split_is_named(folder):
    labels(folder, rows_of(folder)[:2])
    with pytest.raises(BadInput, match=r"annotations.csv, key 'test': no pair falls into split 'test' \(of 2\)"):
        run(PlainStage(folder))


def test_rules_reject_pairs_and_say_so(folder):
    labels(folder, rows_of(folder) + [f"videos/{n}_A.mp4,videos/0_B.mp4,more {n},A,A,B,,,," for n in range(3)])
    stage = PlainStage(folder)
    source(stage)
    measure(stage)
    curate(stage)
    light = {clip["clip"]: clip["brightness"] for clip in read_table("data/clips.parquet")}
    most = (light["2_A.mp4"] + light["1_A.mp4"]) / 2
    report = run(PlainStage(folder, {"brightness": Rule(min=None, max=most)}))
    rejected = {clip["clip"] for clip in read_table("data/clips.parquet") if clip["status"] == "rejected"}
    assert rejected == {"2_A.mp4", "2_B.mp4"}
    assert (report["pairs"], report["pairs_rejected_by_rules"]) == (4, 2)


def test_rules_over_unknown_measures(folder):
    stage = PlainStage(folder, {"beauty": Rule(min=0.5, max=None)})
    source(stage)
    measure(stage)
    with pytest.raises(BadInput, match=r"params.yaml, key 'curate.rules.beauty': unknown measure"):
        curate(stage)


def test_bounds_belong_to_the_range():
    clip = {"broken": None, "flicker": 0.2, "motion": None}
    assert verdict(clip, {"flicker": Rule(min=0.2, max=0.2)}) == ("ok", None)
    assert verdict(clip, {"flicker": Rule(min=None, max=0.1)}) == ("rejected", "flicker 0.2 above 0.1")
    assert verdict(clip, {"flicker": Rule(min=0.3, max=None)}) == ("rejected", "flicker 0.2 below 0.3")
    assert verdict(clip, {"motion": Rule(min=0, max=None)}) == ("rejected", "motion is not defined")
    assert verdict(clip | {"broken": "unreadable"}, {"motion": Rule(min=0, max=None)}) == ("broken", "unreadable")


def test_a_changed_threshold_decodes_nothing(folder):
    """curate works from the measures alone: with every video gone it gives the same table."""
    stage = PlainStage(folder)
    source(stage)
    measure(stage)
    curate(stage)
    before = read_table("data/clips.parquet")
    shutil.rmtree("data/source/videos")
    curate(PlainStage(folder, {"brightness": Rule(min=None, max=2)}))
    assert read_table("data/clips.parquet") == before


@pytest.mark.parametrize("value", ["", "nan", "inf", "good"])
def test_a_score_that_is_no_number_passes_no_rule(folder, tmp_path, value):
    """A blank one became NaN, which is neither below nor above anything."""
    table = tmp_path / "scores.csv"
    rows = ["0_A.mp4,p,ok,,1.5,1.5,aa11,plan", f"0_B.mp4,p,ok,,{value},1,aa11,plan"]
    table.write_text("\n".join(["path,prompt,status,reason,VQ,Overall,reward_model,frame_plan", *rows]) + "\n")
    stage = PlainStage(folder, {"reward_VQ": Rule(min=0, max=None)}, scores=table)
    source(stage)
    measure(stage)
    with pytest.raises(BadInput, match=rf"scores.csv, row 3, key 'VQ': status ok, but '{value}' is not a finite number"):
        curate(stage)
    table.write_text(table.read_text().replace("status", "state"))
    with pytest.raises(BadInput, match=r"scores.csv, row 1, key 'status': missing column"):
        curate(stage)
    table.write_bytes(b"PAR1")
    stage.params.curate = CurateParams(scores=str(table.rename(tmp_path / "scores.parquet")), rules={})
    with pytest.raises(BadInput, match=r"scores.parquet: not a Parquet file, or a damaged one"):
        curate(stage)


def test_rewards_join_as_columns_and_filter(folder, tmp_path):
    """A clip that could not be scored, or was not, has no reward and passes no rule on one."""
    good = "0_A.mp4,p,ok,,1.5,1.5,aa11,plan"
    rows = [good, "data/source/videos/0_B.mp4,p,ok,,-2,-2,aa11,plan", "1_A.mp4,p,failed,cut,,,,"]
    table = tmp_path / "scores.csv"
    table.write_text("\n".join(["path,prompt,status,reason,VQ,Overall,reward_model,frame_plan", *rows]) + "\n")
    stage = PlainStage(folder, {"reward_VQ": Rule(min=0, max=None)}, scores=table)
    source(stage)
    measure(stage)
    curate(stage)
    clips = {clip["clip"]: clip for clip in read_table("data/clips.parquet")}
    assert {name for name, clip in clips.items() if clip["status"] == "ok"} == {"0_A.mp4"}
    assert (clips["0_B.mp4"]["reward_VQ"], clips["0_B.mp4"]["reason"]) == (-2, "reward_VQ -2 below 0")
    assert clips["1_A.mp4"]["reason"] == clips["2_A.mp4"]["reason"] == "reward_VQ is not defined"
    assert clips["0_A.mp4"]["reward_model"] == "aa11" and clips["1_A.mp4"]["reward_model"] is None

    table.write_text(table.read_text() + good + "\n")
    with pytest.raises(BadInput, match=r"scores.csv, row 5, key 'path': 0_A.mp4 is scored twice"):
        curate(stage)
    table.write_text(table.read_text().replace("0_A.mp4", "9_A.mp4", 1).removesuffix(good + "\n"))
    with pytest.raises(BadInput, match=r"scores.csv, key 'path': 1 scores of no clip of .*: 9_A.mp4"):
        curate(stage)


@pytest.mark.parametrize(("folder_", "file"), [("nowhere", "labels.csv"), (".", "none.csv")])
def test_a_folder_or_csv_that_is_not_there(folder, folder_, file):
    stage = PlainStage(folder / folder_)
    stage.params.source = FolderSource(kind="folder", folder=str(folder / folder_), csv=file)
    with pytest.raises(BadInput, match="no such folder" if folder_ == "nowhere" else "none.csv: missing"):
        source(stage)
