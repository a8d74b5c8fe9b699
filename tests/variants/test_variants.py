"""Other settings on the finished run of the smoke profile: trunks of the latent reward, a further round, online methods."""

import csv
import json
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from components.errors import NO
from tests.end_to_end.smoke import environment, metrics, run


@pytest.mark.parametrize("trunk", ["frozen", "lora"])
def test_other_trunks_train_and_guide(finished, trunk):
    """Also with ties, and on clean latents alone; then all is as it was."""
    params, lock = finished / "params.yaml", finished / "dvc.lock"
    before, locked = params.read_text(), lock.read_bytes()
    changed = before.replace("trunk: full", f"trunk: {trunk}").replace("loss: bt\n", "loss: btt\n")
    params.write_text(changed.replace("max_noise: 1.0", "max_noise: 0.0"))
    run(finished, "dvc", "repro", "sample@nrg")
    facts = json.loads((finished / "models/latent_reward/latent_reward.json").read_text())
    assert facts["frozen"] == (trunk == "frozen")
    weights = load_file(finished / "models/latent_reward/model.safetensors")
    kept = [name for name in weights if name.startswith("trunk.")]
    assert bool(kept) == (trunk == "lora") and not [name for name in kept if "lora" in name]
    curve = metrics(finished)["latent_reward"]["accuracy_by_noise_bin"]
    assert set(curve) == {"VQ", "MQ", "TA", "Overall"} and all(len(bins) == 10 for bins in curve.values())
    base, guided = (clips_of(finished, method) for method in ("base", "nrg"))
    assert base != guided, "guidance does something"
    params.write_text(before)
    lock.write_bytes(locked)
    run(finished, "dvc", "checkout", "--force")


def clips_of(folder: Path, method: str) -> list[bytes]:
    """The clips of a method."""
    return [file.read_bytes() for file in sorted((folder / f"data/samples/{method}/videos").iterdir())]


def against_base(folder: Path, method: str) -> str:
    """What the gate prints of a generator that nothing was champion before; its decision is open at this size."""
    words = ["reelign", "promote", "--model", f"generator_{method}", "--dry-run"]
    said = subprocess.run(words, cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert said.returncode in (0, NO), said.stderr
    return said.stdout


def test_an_online_round_goes_on_from_the_round_before(finished):
    params = finished / "params.yaml"
    params.write_text(params.read_text().replace("rounds: {}", 'rounds: {"2": models/aligned/dpo}', 1))
    said = run(finished, "dvc", "repro", "round@2")
    assert "Running stage 'align@dpo'" not in said.stdout, "the round before stays as it is"
    found = json.loads((finished / "metrics/round-2.json").read_text())
    assert found["candidates"]["pairs"] > 0 and set(found["methods"]) == {"round-2"}
    assert found["methods"]["round-2"]["win_rate"]["gold"]["Overall"]["n"] == 8
    made = json.loads((finished / "models/rounds/2/alignment.json").read_text())
    before = json.loads((finished / "models/aligned/dpo/alignment.json").read_text())
    assert (made["method"], made["base"], made["reward_model"]) == ("round-2", before["base"], before["reward_model"])
    first, second = (finished / f"models/{name}/pytorch_lora_weights.safetensors" for name in ("aligned/dpo", "rounds/2"))
    assert first.read_bytes() != second.read_bytes()
    clips = [finished / f"data/{place}/videos" for place in ("candidates", "rounds/2")]
    names = sorted(path.name for path in clips[0].iterdir())
    assert names == sorted(path.name for path in clips[1].iterdir()), "the same prompts"
    assert all((clips[0] / name).read_bytes() != (clips[1] / name).read_bytes() for name in names), "new clips"
    assert "aligned-round-2/1 against" in against_base(finished, "round-2")


def test_online_methods_align_round_by_round(finished):
    params = finished / "params.yaml"
    params.write_text(params.read_text().replace("online:\n  rounds: {}", "online:\n  rounds: {nft: 2, prfl: 1}"))
    run(finished, "dvc", "repro", "online@nft", "online@prfl")
    for method, rounds in (("nft", 2), ("prfl", 0)):
        found = json.loads((finished / f"metrics/online-{method}.json").read_text())
        assert found["methods"][f"online-{method}"]["win_rate"]["gold"]["Overall"]["n"] == 8
        assert [row["clips"] for row in found["rounds"]] == [12] * rounds
        assert "Win rates against base" in (finished / f"report/online-{method}.html").read_text()
        assert (finished / f"models/online/{method}/pytorch_lora_weights.safetensors").exists()
        assert f"aligned-online-{method}/1 against" in against_base(finished, f"online-{method}")
    with open(finished / "plots/online-nft.csv", newline="") as stream:
        assert [row["round"] for row in csv.DictReader(stream)] == ["1.0", "2.0"]
