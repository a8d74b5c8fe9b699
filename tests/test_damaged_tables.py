"""Tables and exports that were damaged on their way: each reader takes them or says in one line what is wrong."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from components.annotation.clips import read_clips
from components.annotation.importing import import_csv, read_studio
from components.curation.curate import read_scores as read_rewards
from components.errors import BadInput
from components.evaluation.prompt_sets import read_prompt_set
from components.judges.vbench import VBENCH, read_results, summarise
from components.preferences.agreement import decide
from components.preferences.ratings import read_ratings
from components.preferences.schema import group_by_pair, read_annotations, read_prompts
from components.reward.layouts import read_benchmark
from components.reward.score_list import read_list
from components.reward.scored import read_scores

ANNOTATIONS = """path_A,path_B,prompt,annotator,VQ,MQ,TA,Overall,model_A,model_B,MOS_A_VQ
a.mp4,b.mp4,"a cat, é",1,A,B,same,A,m,n,4
a.mp4,b.mp4,"a cat, é",2,A,B,same,,m,n,
c.mp4,d.mp4,猫,given,A,A,A,A,m,n,3
"""
ONE_LABEL = "path_A,path_B,prompt,label\na.mp4,b.mp4,a cat,A\nc.mp4,d.mp4,a dog,same\n"
CHOSEN = "chosen,rejected,prompt\na.mp4,b.mp4,a cat\nc.mp4,d.mp4,a dog\n"
GENAI = "prompt,left_model,left_video,right_model,right_video,vote_type\na cat,m,https://x/a.mp4,n,b.mp4,leftvote\n"
REACT = "path_A,path_B,A_model,B_model,prompt,GSB_MQ\na.mp4,b.mp4,m,n,a cat,G\nc.mp4,d.mp4,m,n,a dog,same\n"
RATINGS = "path,prompt,model,VQ,MQ\na.mp4,a cat,m,3.5,\nb.mp4,a cat,n,1,4\n"
CLIPS = "path,prompt,model\na.mp4,a cat,m\nb.mp4,a dog,n\n"
SCORES = """path,prompt,status,reason,raw_VQ,VQ,Overall,reward_model,frame_plan
a.mp4,a cat,ok,,1,2,2,m,p
b.mp4,a cat,failed,torn,,,,,
"""
PROMPTS = "prompt,prompt_shorter,prompt_zh\na cat,cat,猫\na dog,dog,狗\n"
ANSWER = {"from_name": "VQ", "value": {"choices": ["A"]}}
WORK = {"id": 2, "completed_by": 3, "was_cancelled": False, "lead_time": 1.5, "result": [ANSWER]}
TASKS = json.dumps([{"id": 1, "data": {"task": "t", "prompt": "x"}, "annotations": [WORK], "drafts": []}])
RESULTS = json.dumps({"scene": [0.5, [{"video_path": "a", "video_results": 1}]], "color": [0.25, [1]]})
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "decide": (
        ANNOTATIONS,
        lambda f: [decide(f, views) for views in group_by_pair(f, read_annotations(f, root=f.parent))[0]],
    ),
    "import": (ANNOTATIONS, import_csv),
    "bench": (ANNOTATIONS, lambda f: read_benchmark(f, ["Overall"], None, f.parent)),
    "one label": (ONE_LABEL, lambda f: read_benchmark(f, ["VQ", "MQ", "TA"])),
    "chosen": (CHOSEN, lambda f: read_benchmark(f, ["Overall"])),
    "genai": (GENAI, lambda f: read_benchmark(f, ["TA"])),
    "ratings": (RATINGS, read_ratings),
    "react": (REACT, lambda f: read_benchmark(f, ["VQ", "MQ", "TA"])),
    "score": (CLIPS, read_list),
    "clips": (CLIPS, lambda f: read_clips(f, f.parent)),
    "scores": (SCORES, read_scores),
    "rewards": (SCORES, read_rewards),
    "prompt set": (PROMPTS, lambda f: read_prompt_set(f, "prompt_zh")),
    "prompts": (PROMPTS, read_prompts),
    "label studio": (TASKS, read_studio),
    "vbench": (RESULTS, lambda f: summarise(VBENCH, read_results([f], VBENCH))),
}
PIECES = [b"", *b'",\n\r\0;\t \xff', "\u200b", "\ufeff", b"null", b"NaN", b"[]", b"{}", b"-1", b"1e999", b"true"]
PIECES += ["..", "/", "\\", "A" * 300, "<|im_end|>", "path_A"]
TIMES = 60  # each reader


def damaged(text: str, rng: random.Random) -> bytes:
    """The text with a few places cut out, written over or grown."""
    raw = bytearray(text.encode())
    for _ in range(rng.randrange(1, 4)):
        place, piece = rng.randrange(len(raw) or 1), rng.choice(PIECES)
        new = bytes([piece]) if isinstance(piece, int) else piece.encode() if isinstance(piece, str) else piece
        raw[place : place + rng.choice([0, 0, 1, 1, 2, 5, 40])] = new
    return bytes(raw)


@pytest.mark.parametrize("name", READERS)
def test_damage_is_one_line(tmp_path, name):
    text, read = READERS[name]
    for clip in "abcd":
        (tmp_path / f"{clip}.mp4").write_text("x")
    file = tmp_path / "given.csv"
    refused = 0
    for seed in range(TIMES):
        file.write_bytes(damaged(text, random.Random(f"{name} {seed}")))
        try:
            read(file)
        except BadInput as error:
            refused += 1
            assert str(error).isprintable() and str(error).startswith(str(file)), error
    assert refused > TIMES / 4
