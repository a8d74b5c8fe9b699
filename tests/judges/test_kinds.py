"""Each kind of judge on real files: its scores or points, what it refuses, and what it does not know."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from components.errors import BadInput
from components.judges.judges import load_judge, load_judges
from components.judges.model import identity_of
from components.judges.protocol import Context, JudgedClip
from components.pipeline.stage import folder_digest
from components.reward.score import RewardModel
from components.video.encode import write_video
from tests.evaluation.fixtures import clip
from tests.reward.tiny import saved_model

PROMPT = "a red circle moving up"


@pytest.fixture
def clips(tmp_path, monkeypatch) -> list[JudgedClip]:
    monkeypatch.chdir(tmp_path)
    made = []
    for number, method in enumerate(("base", "dpo")):
        file = Path(f"data/samples/{method}/videos/p0_0.mp4")
        write_video(file, clip(np.random.default_rng(number), "red", 3 + 20 * number), fps=8)
        made.append(JudgedClip(str(file), PROMPT))
    return made


def test_a_video_reward_judges_and_the_one_that_aligned_does_not(clips):
    reward, own = (
        saved_model(Path("models/video_reward")),
        saved_model(Path("judges/other"), "Rate {text_prompt}: <|VQ_reward|><|MQ_reward|><|TA_reward|>"),
    )
    context = Context(reward=reward)
    judge = load_judge("model:judges/other", context)
    frames = clip(np.random.default_rng(0), "red", 3)
    table = judge.score([*clips, JudgedClip("-", PROMPT, frames, 8.0), JudgedClip("no.mp4", PROMPT)])
    (score, *_) = RewardModel.load(own).score([(clips[0].video, PROMPT)])
    assert table["Overall"][0] == score.overall and table["reason"].isna().tolist() == [True, True, True, False]
    assert judge.facts.identity == folder_digest(own) and judge.facts.key == "model-other" and not judge.facts.trusted
    (own / "judge_card.json").write_text("{}")
    assert identity_of(own) == judge.facts.identity != folder_digest(own)
    shutil.copytree(reward, "judges/copy")
    with pytest.raises(BadInput, match="judges/copy: is models/video_reward: alignment was trained to please it"):
        load_judge("model:judges/copy", context)


@pytest.mark.parametrize(
    ("own", "other", "why"),
    [
        ({"base_digest": "REWARD"}, {}, "one of it and models/video_reward was trained on from the other"),
        ({"pairs_digest": "p"}, {"pairs_digest": "p"}, r"learnt from the labels .* \(pairs p\)"),
        ({"base": "start", "base_digest": "s"}, {"base": "start", "base_digest": "s"}, "from a VideoReward, start, as"),
    ],
)
def test_kin_of_the_reward_model_is_refused(clips, own, other, why):
    reward = saved_model(Path("models/video_reward"))
    saved_model(Path("start"))
    for folder, facts in ((reward, other), (saved_model(Path("judges/kin")), {"note": "other bytes", **own})):
        card = json.loads((folder / "video_reward.json").read_text())
        if facts.get("base_digest") == "REWARD":
            facts = {**facts, "base_digest": folder_digest(reward)}
        (folder / "video_reward.json").write_text(json.dumps(card | {"provenance": facts}))
    with pytest.raises(BadInput, match=why):
        load_judge("model:judges/kin", Context(reward=reward))


def test_people_have_points_on_either_side_of_clips_they_saw(clips):
    points = {"VQ": 0.5, "MQ": 0.0, "TA": 1.0, "Overall": 0.75}
    digests = [folder_digest(clip.video) for clip in clips]
    Path("people.json").write_text(
        json.dumps({"annotators": 2, "verdicts": [{"prompt": PROMPT, "digests": digests, "points": points}]})
    )
    people = load_judge("human:people.json", Context())
    base, dpo = clips
    unlike = [JudgedClip(one.video, "a blue square") for one in clips]
    table = people.compare([(base, dpo), (dpo, base), (unlike[0], unlike[1])])
    assert table["Overall"].tolist()[:2] == [0.75, 0.25] and np.isnan(table["Overall"][2])
    assert "no answer on this pair" in table["reason"][2] and people.facts.trusted and people.facts.sampled
    Path("people.json").write_text(json.dumps({"annotators": 2}))
    with pytest.raises(BadInput, match=r"people\.json, key 'verdicts': missing key"):
        load_judge("human:people.json", Context())


def test_vbench_results_of_these_clips_are_scores(clips):
    for number, judged in enumerate(clips):
        folder = Path("results")
        folder.mkdir(exist_ok=True)
        rows = {
            name: [value, [{"video_path": f"/elsewhere/{judged.video}", "video_results": value}]]
            for name, value in (("imaging_quality", 0.5 + 0.1 * number), ("motion_smoothness", 0.9))
        }
        (folder / f"{number}_eval_results.json").write_text(json.dumps(rows))
    judge = load_judge("vbench:results", Context())
    assert judge.facts.dimensions == ("VQ", "MQ", "Overall")
    table = judge.score([*clips, JudgedClip("data/samples/rwr/videos/p0_0.mp4", PROMPT)])
    smooth = (0.9 - 0.706) / (0.9975 - 0.706)
    assert table["VQ"].tolist()[:2] == pytest.approx([0.5, 0.6]) and table["MQ"][0] == pytest.approx(smooth)
    assert table["Overall"][1] == pytest.approx((0.6 + smooth) / 2) and "no motion_smoothness of it" in table["reason"][2]
    shutil.copy("results/0_eval_results.json", "results/2_eval_results.json")
    with pytest.raises(BadInput, match="a second value of base"):
        load_judge("vbench:results", Context())


PROGRAM = """
import csv, sys
open("runs.txt", "a").write("x")
rows = list(csv.DictReader(open(sys.argv[1])))
with open(sys.argv[2], "w") as out:
    print("clip,Overall,TA,reason", file=out)
    for row in rows:
        {line}
"""


def program(line: str) -> str:
    Path("judge.py").write_text(PROGRAM.format(line=line))
    return f"command:{sys.executable} judge.py"


def test_a_program_scores_clips_once_and_in_memory_too(clips):
    context = Context(state=Path("state"))
    line = """print(row["clip"], *(("", "", "too dark") if "dpo" in row["path"] else (0.5, 0.25, "")), sep=",", file=out)"""
    judge = load_judge(program(line), context)
    shown = [*clips, JudgedClip("-", PROMPT, clip(np.random.default_rng(0), "red", 3), 8.0)]
    table = judge.score(shown)
    assert judge.facts.dimensions == ("TA", "Overall") and table["TA"].tolist()[::2] == [0.25, 0.25]
    assert table["reason"].tolist()[1] == "too dark" and np.isnan(table["Overall"][1])
    assert load_judge(f"command:{sys.executable} judge.py", context).score(shown).equals(table)
    assert Path("runs.txt").read_text() == "x"  # a killed run asks nothing twice
    (kept,) = Path("state").iterdir()
    kept.write_text("{")
    assert load_judge(f"command:{sys.executable} judge.py", context).score(shown).equals(table)
    before = judge.facts.identity
    assert load_judge(program("pass"), context).facts.identity != before


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("pass", "no row of clip 0"),
        ('print(row["clip"], "nan", 1, "", sep=",", file=out)', "row 2, key 'Overall': 'nan' is no finite number"),
        ('print(7, 1, 1, "", sep=",", file=out)', "'7' is no clip of clips.csv"),
        ('print(0, 1, 1, "", sep=",", file=out)', "'0' comes twice"),
        ('sys.exit("out of memory")', "ended with exit code 1: out of memory"),
    ],
)
def test_a_program_that_fails_gives_no_score(clips, line, why):
    with pytest.raises(BadInput, match=why):
        load_judge(program(line), Context(state=Path("state"))).score(clips)
    assert not Path("state").exists()


def test_what_is_not_there_is_named(clips):
    for name, why in (
        ("command:no-such-program", "no such program"),
        ("vbench:nowhere", "no .*_eval_results.json in it"),
        ("model:nowhere", "no such folder of a judge"),
        ("human:nowhere.json", "missing"),
    ):
        with pytest.raises(BadInput, match=why):
            load_judge(name, Context())
    saved_model(Path("a/m"))
    saved_model(Path("b/m"))
    with pytest.raises(BadInput, match="are both model-m in metrics: rename a file or folder"):
        load_judges(["model:a/m", "model:b/m"], Context())
