"""The whole pipeline in the smoke profile, as a user runs it: `dvc repro` in a checkout. Then again, and killed."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time

from safetensors.torch import load_file

from tests.end_to_end.smoke import environment, metrics, run
from tests.planted import SECRETS, leaks, open_to_all


def test_every_stage_makes_what_it_promises(finished):
    found = metrics(finished)
    alignment = found["alignment"]
    assert set(alignment["methods"]) == {"sft", "rwr", "dpo", "nrg", "best_of_n"}
    assert alignment["prompts"] == 4 and alignment["seeds_per_prompt"] == 2
    for method in alignment["methods"].values():
        for judge in ("gold", "reward"):
            for dimension in ("VQ", "MQ", "TA", "Overall"):
                entry = method["win_rate"][judge][dimension]
                assert 0 <= entry["value"] <= 1 and (entry["n"], entry["prompts"]) == (8, 4)
                assert entry["ci95"] is None  # four prompts are too few for an interval
        assert isinstance(method["hacking"]["alarm"], bool)
    bench = found["reward_bench"]
    assert set(bench["dimensions"]) == {"VQ", "MQ", "TA", "Overall"} and bench["pairs"] > 30
    for entry in bench["dimensions"].values():
        assert entry["accuracy_with_ties"]["threshold_from"] == "validation"
    report = (finished / "report/index.html").read_text()
    assert "data:video/mp4;base64," in report
    assert (finished / "serving/model_repository/video_reward/config.pbtxt").exists()
    assert (finished / "models/aligned/dpo/pytorch_lora_weights.safetensors").exists()


def test_secrets_of_the_environment_are_written_nowhere(finished):
    """Neither to logs, MLflow's store, metrics, models nor pages; and nothing is for everybody to write."""
    there = {path.name for path in finished.rglob("*") if path.is_file()}
    assert {"repro.log", "mlflow.db", "reward_bench.json", "index.html"} <= there
    assert leaks(finished, SECRETS) == []
    assert open_to_all(finished) == []


def test_no_prompt_is_on_two_sides(finished):
    import pandas as pd

    tables = [finished / f"data/pairs/{split}.parquet" for split in ("train", "validation", "test")]
    train, validation, test = (set(pd.read_parquet(table).prompt) for table in tables)
    candidates = set(pd.read_parquet(finished / "data/candidates/candidates.parquet").prompt)
    samples = set(pd.read_parquet(finished / "data/samples/dpo/samples.parquet").prompt)
    assert not train & validation and not train & test and not validation & test
    assert not candidates & (validation | test | samples) and not samples & (train | validation)


def test_duels_show_clips_of_the_pairs_that_alignment_learns_from(finished):
    import pandas as pd

    pairs = pd.read_parquet(finished / "data/alignment_pairs.parquet")
    paths = pd.read_parquet(finished / "data/candidates/candidates.parquet").set_index("candidate_id").path
    example_pairs = pd.read_parquet(finished / "data/example_pairs/example_pairs.parquet")
    assert len(example_pairs) == 2 and example_pairs.margin.tolist() == [pairs.margin.min(), pairs.margin.max()]
    for pair in example_pairs.itertuples():
        for candidate, path in ((pair.chosen, pair.chosen_path), (pair.rejected, pair.rejected_path)):
            clip = finished / "data/candidates" / paths[candidate]
            assert (finished / "data/example_pairs" / path).read_bytes() == clip.read_bytes()


def test_all_methods_are_sampled_alike(finished):
    import pandas as pd

    tables = {
        m: pd.read_parquet(finished / f"data/samples/{m}/samples.parquet")
        for m in ("base", "sft", "dpo", "nrg", "best_of_n")
    }
    for table in tables.values():
        pd.testing.assert_frame_equal(table, tables["base"])


def test_runs_are_tracked_and_models_registered(finished):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{finished}/mlflow.db")
    experiment = client.get_experiment_by_name("reelign-smoke")
    runs = client.search_runs([experiment.experiment_id], max_results=200)
    parents = [r for r in runs if "execution" in r.data.tags]
    children = {r.data.tags["dvc.stage"]: r for r in runs if "dvc.stage" in r.data.tags}
    assert len(parents) == 1, "one parent run for one dvc repro"
    assert parents[0].info.status == "FINISHED" and "win_rate/dpo/gold/Overall" in parents[0].data.metrics
    assert {"source", "reward", "align@dpo", "sample@nrg", "evaluate"} <= set(children)
    for child in children.values():
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
    assert client.get_metric_history(children["align@dpo"].info.run_id, "implicit_accuracy")
    names = {model.name for model in client.search_registered_models()}
    assert {"reelign-smoke-video-reward", "reelign-smoke-aligned-dpo"} <= names


def test_again_nothing_runs(finished):
    said = run(finished, "dvc", "repro").stdout
    assert "Running stage" not in said and "up to date" in said


def test_a_training_stage_killed_goes_on_to_the_same_metrics(finished):
    # A param that no run had yet: DVC would give back a stage that it has seen before instead of running it.
    params = finished / "params.yaml"
    params.write_text(params.read_text().replace("theta: 5.0", "theta: 4.0"))
    weights = finished / "models/video_reward/model.safetensors"
    with subprocess.Popen(
        ["dvc", "repro", "reward_bench"], cwd=finished, env=environment(finished), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not list((finished / ".reelign/state").glob("reward/*/*.pt")):
            assert process.poll() is None and time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert not weights.exists(), "nothing half-written stands as an output"

    result = run(finished, "dvc", "repro", "reward_bench")
    assert "resumes at step" in result.stderr + result.stdout
    broken = weights.read_bytes(), metrics(finished)["reward_bench"]
    run(finished, "dvc", "repro", "--single-item", "--force", "--no-run-cache", "reward")
    run(finished, "dvc", "repro", "reward_bench")
    assert (weights.read_bytes(), metrics(finished)["reward_bench"]) == broken


def test_the_command_for_several_processes_trains_the_same_reward_model(finished, tmp_path):
    """As the README has it, on two processes; without GPUs accelerate must be told, and keeps the weights whole."""
    import torch

    shared = tmp_path / "shared"
    shutil.copytree(finished, shared, ignore=shutil.ignore_patterns("mlartifacts", ".dvc"))
    shutil.rmtree(shared / "models/video_reward")
    launch = ["accelerate", "launch", "--config_file", "infra/accelerate/fsdp.yaml", "--num_processes", "2"]
    environ = environment(shared) | {"CUDA_VISIBLE_DEVICES": ""}
    command = [*launch, "-m", "components.reward.train"]
    alone = subprocess.run(command, cwd=shared, env=environ, capture_output=True, text=True)
    assert alone.returncode != 0 and not (shared / "models/video_reward").exists()
    assert "error: environment, key 'ACCELERATE_USE_CPU': 2 processes were launched, but each would run" in alone.stderr
    run(shared, "env", "CUDA_VISIBLE_DEVICES=", "ACCELERATE_USE_CPU=true", *launch, "-m", "components.reward.train")
    for name in ("model.safetensors", "head.safetensors"):
        one, two = (load_file(folder / "models/video_reward" / name) for folder in (finished, shared))
        assert one.keys() == two.keys()
        for key, weight in one.items():
            torch.testing.assert_close(two[key], weight, atol=1e-4, rtol=1e-4)


def test_bad_input_is_one_line_and_leaves_no_output(finished, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(finished, broken, symlinks=True, ignore=shutil.ignore_patterns("mlartifacts", "cache"))
    file = broken / "data/source/annotations.csv"
    with open(file, newline="") as stream:
        rows = list(csv.reader(stream))
    rows[3][rows[0].index("VQ")] = "better"
    file.unlink()  # DVC may have linked it into its cache
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    shutil.rmtree(broken / "data/pairs")
    command = [sys.executable, "-m", "components.preferences.pairs"]
    result = subprocess.run(command, cwd=broken, env=environment(broken), capture_output=True, text=True)
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "annotations.csv, row 4" in errors[0] and "'better'" in errors[0]
    assert not (broken / "data/pairs").exists()
