"""Each file that we write and read back ourselves, damaged: the next run makes it anew, in one line that names it, and ends
as an undamaged one does; or, where nothing can make it anew, it is refused in one line."""

import functools
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from components.alignment import reference
from components.alignment.methods.flow_grpo import WindowSpec, forget_damaged, read_states, states_file
from components.annotation.human_study import read_study
from components.annotation.studio import read_project
from components.annotation.tasks import read_key, read_settings
from components.config.sources import SourceParams
from components.curation.s3 import PART, Object, Prefix
from components.errors import BadInput
from components.evaluation import tradeoff
from components.evaluation.summary import read_measured
from components.files.atomic import discard
from components.generator.conditioning import Conditioning
from components.generator.prompts import encode_ahead
from components.generator.sampler import Job, Loaded, draw, latents_file
from components.generator.shards import save_conditioning, save_shards
from components.guidance.train import read_kept
from components.judges.vlm_questions import Answer
from components.judges.vlm_record import Record
from components.online.loop import FIGURES, POLICY, SCORES, collected, finished, write_round
from components.orchestration import service as services
from components.orchestration.credentials import make_credentials, read_credentials
from components.pipeline import lock
from components.pipeline.lock_entries import read_entry, read_lock
from components.pipeline.mlflow_store import relocate
from components.pipeline.stage import folder_digest, write_json
from components.pipeline.work_tree import check_out
from components.registry.versions import fetch
from components.reward.external import scored
from components.reward.frame_cache import FrameCache
from components.reward.inputs import Clip
from components.reward.score import Score
from components.runtime.engine import map_rows
from components.runtime.training import fit
from components.runtime.weights import load_tensors
from components.serving.deploy import MODEL, loaded_by_config, serving_version
from components.simulation.world import all_scenes, prompt_of
from components.simulation.zoo import make_and_judge
from tests.conftest import REPOSITORY, BareStage
from tests.generator.small import tiny_generator
from tests.test_training import Killed, loss_fn, model, mortal, settings

Use = Callable[[], Any]  # what a next run makes of it, in whatever way it can be compared


@dataclass(frozen=True)
class Row:
    """`make` leaves the state in the working folder and returns the file and its use. `refused`: nothing can make it anew.
    `quiet`: kinds of damage that look like a file that was just begun; no line is due."""

    owners: tuple[str, ...]  # modules of components/ that keep such a file
    make: Callable[[Path], tuple[Path, Use]]
    refused: bool = False
    quiet: tuple[str, ...] = ()


def checkpoint(folder: Path) -> tuple[Path, Use]:
    stage = BareStage(folder / "state")
    with pytest.raises(Killed):
        fit(stage, model(), mortal(12), 64, settings())

    def use() -> list:
        stage.say, trained = print, model()
        rows = fit(stage, trained, loss_fn, 64, settings())
        return [rows, [p.tolist() for p in trained.parameters()]]

    return stage.state() / "train.pt", use


def square(row: dict) -> dict:
    return {"square": row["n"] ** 2 / 7}


def plain_progress(items, what, total):
    return iter(items)


def chunk(folder: Path) -> tuple[Path, Use]:
    use = functools.partial(map_rows, square, [{"n": n} for n in range(10)], 1, 3, folder, plain_progress)
    use()
    return folder / "chunk-000001.json", use


def drawn(folder: Path, chosen: Callable[[Path, Job], Path]) -> tuple[Path, Use]:
    stage = BareStage(folder / "state")
    sampling = stage.params.sampling.model_copy(update={"frames": 5, "height": 16, "width": 16, "steps": 2, "batch_size": 2})
    jobs = [Job(str(n), "a red circle", n) for n in range(4)]

    def use() -> list:
        latents = draw(stage, Loaded(tiny_generator()), jobs, sampling, folder / "clips")
        return [[part.tolist() for part in latents], [(folder / f"clips/{job.clip}.mp4").read_bytes() for job in jobs]]

    use()
    return chosen(stage.state() / "clips", jobs[0]), use


def encoded_prompts(folder: Path, name: str) -> tuple[Path, Use]:
    place, prompts = folder / "text", ["a red circle", "a blue circle", ""]

    def use() -> list:
        return encode_ahead(place, Loaded(tiny_generator()), prompts)(prompts).tensors["text"].tolist()

    use()
    return place / name, use


def rendered(folder: Path) -> tuple[Path, Use]:
    prompts = [prompt_of(scene) for scene in all_scenes()[:2]]
    clips = [{"path": f"{n}.mp4", "prompt": text, "model": "render-mixed", "seed": n} for n, text in enumerate(prompts)]
    op = functools.partial(make_and_judge, videos="nowhere", rendered=str(folder), size=32, frames=5, fps=8)

    def use() -> list:
        rows = map_rows(op, clips, 1, 1, folder, plain_progress)
        return [rows, [(folder / clip["path"]).read_bytes() for clip in clips]]

    use()
    return folder / "1.mp4", use


def batch_of_tradeoff(folder: Path) -> tuple[Path, Use]:
    stage = BareStage(folder / "state")
    generator = SimpleNamespace(decode=lambda x, way: x, with_text=lambda encoder: generator)
    clips = functools.partial(lambda _, jobs, sampling: np.zeros((len(jobs), 2, 8, 8, 3), np.uint8))
    drawers = {"plain": (lambda: (generator, clips), stage.params.sampling)}
    jobs = [(f"p{n}", Job(str(n), "a red circle", n)) for n in range(stage.params.sampling.batch_size + 1)]
    normalised = {"VQ": 0.1, "MQ": 1 / 3, "TA": 0.5}
    scores = SimpleNamespace(score=lambda items: [Score(normalised, normalised, 0.9, "m", "plan") for _ in items])

    def use() -> list:
        rows = tradeoff.draw_in_turns(stage, drawers, jobs, None, scores, {})
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    use()
    return stage.state() / "00000-00.json", use


def round_record(folder: Path, name: str) -> tuple[Path, Use]:
    """As run_rounds uses it, with constant weights."""
    state = folder / "rounds"
    state.mkdir()

    def use() -> list:
        for number in range(len(finished(state)), 2):
            weights, scores = {"w": torch.full((2,), float(number))}, pd.DataFrame({"reward": [0.5, number]})
            record = {"figures": {"reward": number / 3}, "rows": [{"step": 1.0, "loss": 0.1}]}
            write_round(state / f"{number:04d}", weights, weights, record, scores)
        rows, figures, scores = collected(state)
        policies = [load_tensors(state / kept / POLICY)["w"].tolist() for kept in finished(state)]
        return [rows, figures, scores.to_dict("list"), policies]

    use()
    return state / "0001" / name, use


def noisy_steps(folder: Path) -> tuple[Path, Use]:
    """As a round of Flow-GRPO draws, with the states of its window."""
    stage = BareStage(folder / "state")
    sampling = stage.params.sampling.model_copy(update={"frames": 5, "height": 16, "width": 16, "steps": 4, "batch_size": 2})
    jobs = [Job(str(n), "a red circle", n) for n in range(4)]

    def use() -> list:
        forget_damaged(stage.state() / "clips")
        spec = WindowSpec(Loaded(tiny_generator()), stage.params.online.grpo, stage.state() / "clips")
        latents = draw(stage, spec, jobs, sampling, folder / "clips")
        states, times = read_states(stage.state() / "clips", [job.clip for job in jobs], 2)
        return [[part.tolist() for part in latents], states.tolist(), times.tolist()]

    use()
    return states_file(stage.state() / "clips", "0"), use


def encoded(folder: Path) -> tuple[Path, Use]:
    """As human_labelled uses it."""
    kept, made_from = folder / "people", {"base generator": "abc"}

    def use() -> list:
        if (found := read_kept(kept, made_from)) is None:
            save_shards(torch.full((3, 1, 2), 1.0), kept / "latents", made_from)
            save_conditioning([Conditioning({"text": torch.full((3, 2), 2.0)})], kept / "text", made_from)
            found = read_kept(kept, made_from)
        latents, text = (part[range(len(part))] for part in found)
        return [latents.tolist(), text.tensors["text"].tolist()]

    use()
    return kept / "text/00000.safetensors", use


def reference_table(folder: Path, part: bool) -> tuple[Path, Use]:
    stage, draws = BareStage(folder), 2
    grid = reference.Grid(torch.rand(40, draws, generator=torch.Generator().manual_seed(0)), np.zeros((40, draws), int))
    count = [0]

    def errors(transformer, pairs, indices, own, grid, reduction):
        count[0] += 1
        if part and count[0] == draws + 1:
            raise Killed
        return torch.tensor(indices, dtype=torch.float), torch.tensor(indices, dtype=torch.float) / 7

    def use() -> list:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reference, "pair_errors", errors)
            return reference.reference_errors(stage, None, [None] * 40, grid, "mean", {"base": "b"}, folder).tolist()

    if part:
        with pytest.raises(Killed):
            use()
    else:
        use()
    return next(folder.rglob("*.safetensors")), use


def frame_cache(folder: Path, name: str) -> tuple[Path, Use]:
    clips = {f"clip{n}": Clip(np.random.default_rng(n).integers(0, 256, (2, 2, 3 + n, 3), np.uint8), 8.0) for n in range(4)}

    def use() -> list:
        with FrameCache(folder) as cache:
            for key, clip in clips.items():
                cache.add(key, clip)
        views = cache.views({key: key for key in clips})
        return [(np.array(views[key].frames).tolist(), views[key].fps) for key in clips]

    use()
    return folder / name, use


class Store:
    """A bucket's client for one object, whose ETag is the MD5 of its bytes."""

    def __init__(self, data: bytes):
        self.data, self.gets = data, 0
        self.etag = f'"{hashlib.md5(data).hexdigest()}"'

    def get_object(self, Range: str | None = None, **_: Any) -> dict:
        self.gets += 1
        first, last = map(int, re.findall(r"\d+", Range)) if Range else (0, len(self.data) - 1)
        data = self.data[first : last + 1]
        return {"ContentLength": len(data), "ETag": self.etag, "Body": SimpleNamespace(iter_chunks=lambda size: [data])}

    def head_object(self, **_: Any) -> dict:
        return {"ContentLength": len(self.data), "ETag": self.etag}


def bucket(folder: Path, ending: str, size: int = 3000) -> tuple[Path, Use]:
    store = Store(np.random.default_rng(0).bytes(size))
    item = Object("set/a.mp4", size, store.etag)

    def use() -> bytes:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            prefix = Prefix("s3://bucket/set", 2, 1, print)
        prefix.client = store
        prefix.fetch([item], plain_progress)
        return prefix.file(item).read_bytes()

    use()
    file = next(path for path in folder.rglob("*") if path.name == f"{item.name}{ending}")
    return file.relative_to(folder), use


def lock_file(folder: Path, damaged: Path) -> tuple[Path, Use]:
    shutil.copyfile(REPOSITORY / "dvc.yaml", folder / "dvc.yaml")
    text = (REPOSITORY / "dvc.lock").read_text()
    (folder / "dvc.lock").write_text(text[: text.index("\n  curate:\n") + 1])
    lock.keep_copy()

    def use() -> str:
        lock.put_back()
        lock.keep_copy()
        return lock.LOCK.read_text() + lock.COPY.read_text()

    return damaged, use


def entry(folder: Path) -> tuple[Path, Use]:
    """Of the run cache, or of a DAG run; the stage that finds none runs."""
    file = folder / "runs/a/entry"

    def use() -> dict:
        if read_entry(file) is None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("cmd: a\nouts: [{path: b, md5: c}]\n")
        return read_entry(file)

    use()
    return file, use


def lock_of_a_tree(folder: Path) -> tuple[Path, Use]:
    """Entries come from the run cache and the remote; a missing one is written again."""
    (folder / "dvc.lock").write_text("schema: '2.0'\nstages:\n  a: {cmd: a, outs: []}\n")
    return Path("dvc.lock"), lambda: {"a": {"cmd": "a", "outs": []}} | read_lock()


def work_tree(folder: Path, name: str) -> tuple[Path, Use]:
    def git(*words: str) -> str:
        author = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *author, *words], cwd=checkout, check=True, capture_output=True, text=True).stdout

    checkout, tree = folder / "checkout", folder / "checkout/.reelign/trees/reward"
    checkout.mkdir()
    (checkout / "code.py").write_text("print(1)\n")
    git("init", "--quiet")
    git("add", "-A")
    git("commit", "--quiet", "-m", "code")
    commit = git("rev-parse", "HEAD").strip()

    def use() -> str:
        try:
            check_out(tree, checkout, commit)
        except BadInput as error:
            discard(tree, error)
            check_out(tree, checkout, commit)
        return (tree / "code.py").read_text() + (checkout / "code.py").read_text()

    use()
    (checkout / "code.py").write_text("print(2)  # nobody has committed this\n")
    return tree / ".git" / name, use


def measured(folder: Path) -> tuple[Path, Use]:
    """It stands in no output: the summary leaves it out."""
    write_json("measured/tradeoff.json", {"seconds": 1.5})
    return Path("measured/tradeoff.json"), lambda: read_measured(Path("measured/tradeoff.json")) and None


def service(folder: Path) -> tuple[Path, Use]:
    write_json(
        services.FOLDER / "mlflow.json", {"pid": 2**22 + 1, "created": 0.0, "ports": [1], "stop": 15, "form": "light"}
    )
    return services.FOLDER / "mlflow.json", lambda: services.running("mlflow")


def stack_credentials(folder: Path) -> tuple[Path, Use]:
    make_credentials(folder / "credentials.env", ["A_PASSWORD"], folder / "data")

    def use() -> dict:
        (folder / "credentials.env").chmod(0o600)
        return read_credentials(folder / "credentials.env")

    return folder / "credentials.env", use


def version_files(folder: Path) -> tuple[Path, Use]:
    (folder / "store/m").mkdir(parents=True)
    (folder / "store/m/head.safetensors").write_bytes(b"weights" * 9)
    tags = {"model.digest": folder_digest(folder / "store/m")}
    record = SimpleNamespace(name="m", version="1", run_id="r", tags=tags, source=str(folder / "store/m"))

    def use() -> bytes:
        return (fetch(record).folder / "head.safetensors").read_bytes()

    use()
    return Path(".reelign/registry/versions/r/m/head.safetensors"), use


def mlflow_store(folder: Path) -> tuple[Path, Use]:
    shutil.copyfile(template_store(), folder / "mlflow.db")
    (folder / "mlartifacts/1a2b").mkdir(parents=True)
    return folder / "mlflow.db", lambda: relocate(folder / "mlflow.db")


@functools.cache
def template_store() -> Path:
    """A store as MLflow makes it."""
    import tempfile

    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    file = Path(tempfile.mkdtemp()) / "mlflow.db"
    _initialize_tables(create_sqlalchemy_engine(f"sqlite:///{file}"))
    return file


def annotation(folder: Path, name: str, read: Callable[[Path], Any]) -> tuple[Path, Use]:
    (folder / "settings.json").write_text('{"seed": 1, "ratings": false, "overall": true, "base_url": null}\n')
    (folder / "config.xml").write_text("<View>\n  <Header/>\n</View>\n")
    (folder / "guidelines.md").write_text("Look.\n")
    (folder / "tasks.json").write_text(json.dumps([{"data": {"task": "a"}}], indent=1) + "\n")
    columns = "task,path_A,path_B,prompt,model_A,model_B,video_A,video_B,fps_A,fps_B"
    (folder / "key.csv").write_text(f"{columns}\na,0.mp4,1.mp4,p,m,n,c.mp4,d.mp4,8,8\n")
    study = {"methods": ["a", "b"], "samples": {}, "seed": 0, "prompts": 1, "identical": 0, "pairs": []}
    (folder / "study.json").write_text(json.dumps(study))
    return folder / name, lambda: read(folder)


def live_repository(folder: Path, name: str, read: Callable[[Path], Any]) -> tuple[Path, Use]:
    file = folder / "live" / name / "config.pbtxt"
    file.parent.mkdir(parents=True)
    text = "# what else a configuration has\n" * 4
    file.write_text(f"{text}model_version: 3\nversion_policy {{ specific {{ versions: [2, 3] }} }}\n")
    return file, lambda: read(folder / "live")


def made(maker: Callable, *more: Any) -> Callable[[Path], tuple[Path, Use]]:
    return lambda folder: maker(folder, *more)


def answers_of_a_model(folder: Path) -> tuple[Path, Use]:
    """Answers that are lost are asked for again."""
    file, answer = folder / "answers.sqlite", Answer("Overall: first", "stop", None, 1, 1)

    def use() -> dict:
        record = Record(file)
        if "a" not in record.known(["a"]):
            record.keep("a", answer)
        found = record.known(["a", "b"])
        record.close()
        return found

    use()
    return file, use


def scores_of_a_source(folder: Path) -> tuple[Path, Use]:
    stage, program = BareStage(folder / "state"), folder / "program.sh"
    program.write_text('printf "clip,speed\\n0,1.5\\n1,2.5\\n" > "$2"')
    given = {"reward": None, "dimensions": ["speed"], "batch": 2, "attempts": 1, "seconds": 1.0, "key_variable": None}
    source = SourceParams(kind="command", place=f"sh {program}", **given)

    def use() -> list:
        return [one["speed"] for one in scored(stage, "mine", source, [("params.yaml", "x"), ("params.yaml", "y")])]

    use()
    (file,) = (folder / "state").glob("source-mine-0-*.json")
    return file, use


S3 = ("curation/s3",)
ROWS = {
    "checkpoint of a training": Row(("runtime/training",), checkpoint),
    "chunk of the engine (score, measure, source)": Row(("runtime/engine", "curation/measure", "simulation/zoo"), chunk),
    "drawn clip": Row(
        ("generator/sampler", "alignment/base_generator"), made(drawn, lambda state, job: state / f"{job.clip}.mp4")
    ),
    "latents of a batch": Row(("generator/sampler",), made(drawn, latents_file)),
    "encoded prompts": Row(("generator/prompts", "alignment/candidates"), made(encoded_prompts, "00000.safetensors")),
    "which prompts these are": Row(("generator/prompts",), made(encoded_prompts, "prompts.json")),
    "rendered clip": Row(("simulation/zoo",), rendered),
    "batch of the trade-off": Row(("evaluation/tradeoff",), batch_of_tradeoff),
    "policy of a round": Row(("online/loop",), made(round_record, POLICY)),
    "figures of a round": Row(("online/loop",), made(round_record, FIGURES)),
    "scores of a round": Row(("online/loop",), made(round_record, SCORES)),
    "noisy steps of drawn clips": Row(("alignment/methods/flow_grpo",), noisy_steps),
    "encoded clips of people's pairs": Row(("guidance/train",), encoded),
    "table of reference errors": Row(("alignment/reference",), made(reference_table, False)),
    "part of that table": Row(("alignment/reference",), made(reference_table, True)),
    "frames in the cache": Row(("reward/frame_cache",), made(frame_cache, "frames.u8")),
    "index of the frames": Row(("reward/frame_cache",), made(frame_cache, "index.jsonl")),
    "object of a bucket": Row(S3, made(bucket, "")),
    # Without a digest the file is held to what the bucket says, and stays.
    "digest of such an object": Row(S3, made(bucket, ".sha256"), quiet=("truncated", "zeroed", "emptied")),
    "dvc.lock": Row(("pipeline/lock", "pipeline/stage"), made(lock_file, lock.LOCK)),
    "copy of dvc.lock": Row(("pipeline/lock",), made(lock_file, lock.COPY), quiet=("truncated", "zeroed", "emptied")),
    "lock entry of a run": Row(("pipeline/lock_entries",), entry),
    "dvc.lock of a stage's tree": Row(("pipeline/run_stage",), lock_of_a_tree),
    "git's HEAD of a stage's tree": Row(("pipeline/work_tree",), made(work_tree, "HEAD")),
    "git's index of a stage's tree": Row(("pipeline/work_tree",), made(work_tree, "index"), quiet=("truncated",)),
    "git's configuration of a stage's tree": Row(
        ("pipeline/work_tree",), made(work_tree, "config"), quiet=("truncated", "emptied")
    ),
    "what a stage took": Row(("pipeline/stage", "evaluation/summary"), measured),
    "record of a service": Row(("orchestration/service",), service),
    "credentials of the stack": Row(("orchestration/stack",), stack_credentials, refused=True),
    "files of a model version": Row(("registry/versions",), version_files),
    "MLflow's store": Row(("pipeline/tracking", "pipeline/mlflow_store"), mlflow_store, refused=True),
    "answers of a model on record": Row(("judges/vlm_record", "judges/vlm"), answers_of_a_model, quiet=("emptied",)),
    "scores of a source": Row(("reward/external",), scores_of_a_source),
    "settings of an annotation": Row(("annotation/tasks",), made(annotation, "settings.json", read_settings), True),
    "key of an annotation": Row(("annotation/tasks",), made(annotation, "key.csv", read_key), True),
    "tasks of an annotation": Row(("annotation/studio",), made(annotation, "tasks.json", read_project), True),
    "interface of an annotation": Row(("annotation/studio",), made(annotation, "config.xml", read_project), True),
    "study": Row(("annotation/human_study",), made(annotation, "study.json", read_study), True),
    "versions that a server keeps loaded": Row(("serving/deploy",), made(live_repository, MODEL, loaded_by_config), True),
    "version that a server serves": Row(("serving/deploy",), made(live_repository, "video_reward", serving_version), True),
}
# Modules that name state but keep no file there whose content is read.
ELSEWHERE = {
    "pipeline/pipeline_run": "a run's file is empty, its name says all",
    "cli/serving": "the log of served requests: tests/serving/test_served_log.py",
    "files/digests": "digests of large files: tests/test_digests_on_record.py",
    "evaluation/judging": "the folder of judges' answers, as judges/protocol",
    "online/prfl": "the folder of encoded prompts, as generator/prompts",
    "judges/protocol": "answers of judges: tests/judges/test_vlm_record.py",
    "planning/rehearsal": "what stages took: tests/planning/test_rehearsal.py",
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: bytes(len(data)),
    "emptied": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ROWS)
def test_a_damaged_file_of_ours_is_one_line(name, damage, tmp_path, monkeypatch, capfd):
    row, folders = ROWS[name], [tmp_path / "whole", tmp_path / "damaged"]
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    results = []
    for folder in folders:
        folder.mkdir()
        shutil.copyfile(REPOSITORY / "params.yaml", folder / "params.yaml")
        monkeypatch.chdir(folder)
        file, use = row.make(folder)
        if folder == folders[1]:
            file.chmod(0o644)
            file.write_bytes(DAMAGES[damage](file.read_bytes()))
            capfd.readouterr()
            if row.refused:
                with pytest.raises(BadInput) as caught:
                    use()
                assert file.name in str(caught.value) and "\n" not in str(caught.value)
                return
        elif row.refused:
            continue
        results.append(use())
    assert results[0] == results[1]
    said = "".join(capfd.readouterr()).splitlines()
    places = (file.name, str(file.parent), str(file.parent.parent))  # a tree or a model is made anew as a whole
    named = [line for line in said if any(place in line for place in places)]
    assert len(named) == (damage not in row.quiet), said


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_came_of_a_large_object_is_fetched_again_where_it_is_damaged(damage, tmp_path, monkeypatch):
    """A transfer that was cut off after its first part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    store = Store(np.random.default_rng(0).bytes(PART + 5))
    item = Object("set/a.mp4", PART + 5, store.etag)
    prefix = Prefix("s3://bucket/set", 2, 1, print)
    prefix.client = store
    prefix.cache.mkdir(parents=True)
    prefix._missing(item)
    prefix._get(item, 0)
    partial = prefix._partial(item)
    partial.write_bytes(DAMAGES[damage](partial.read_bytes()))
    prefix.fetch([item], plain_progress)
    assert prefix.file(item).read_bytes() == store.data


def test_every_module_that_keeps_state_has_a_row():
    """One that names a stage's state, or the folder for it, is in the table or says why not."""
    keeps = re.compile(r"\bSCRATCH\b|stage\.state\(\)|\.reelign/|\bMEASURED\b")
    modules = {path.relative_to("components").with_suffix("").as_posix(): path for path in Path("components").rglob("*.py")}
    found = {module for module, path in modules.items() if keeps.search(path.read_text())}
    known = {owner for row in ROWS.values() for owner in row.owners}
    assert known <= modules.keys()
    assert found - known == ELSEWHERE.keys()
