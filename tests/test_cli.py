"""The command line: help that shows all that is written, a version, and clips that carry where they came from."""

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from components.cli import doctor
from components.cli.generator import check_dimensions, parse_weights
from components.cli.main import app
from components.config.params import load_params
from components.errors import BadInput
from components.generator.families.wan_small import save_generator
from components.pipeline.stage import folder_digest, write_json
from components.serving import deploy as deployment
from tests.generator.small import tiny_generator


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def commands(group, path=()):
    for name, command in getattr(group, "commands", {}).items():
        yield (*path, name), command
        yield from commands(command, (*path, name))


ALL = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_keeps_every_word_in_brackets(path):
    """Rich reads [words] as markup and drops them: a default that is no value belongs into show_default."""
    command = ALL[path]
    texts = [command.help or "", *(getattr(option, "help", None) or "" for option in command.params)]
    shown = re.sub(r"[\s│]", "", run(*path, "--help").output)
    for text in texts:
        for bracketed in re.findall(r"\[[a-z ][^\]]*\]", text):
            assert re.sub(r"\s", "", bracketed) in shown


def test_version():
    found = run("--version")
    assert (found.exit_code, found.output) == (0, f"reelign {version('reelign')}\n")


def test_json_is_the_same_option_wherever_a_script_reads_a_result():
    having = {" ".join(path) for path, command in ALL.items() if any("--json" in one.opts for one in command.params)}
    assert having == {
        "score",
        "bench-reward",
        "check-reward",
        "export-reward",
        "rehearse",
        "doctor",
        "promote",
        "lineage",
        "deploy",
        "monitor",
        "study read",
        "judge check",
        "gc",
        "lora inspect",
        "lora convert",
    }
    shown = Path("docs/how-to/script.md").read_text()
    for name in having:
        assert f"`reelign {name} --json`" in shown


def test_doctor_prints_its_checks_as_json(monkeypatch):
    def broken() -> str:
        raise doctor.Trouble("0.1 GiB free; the demo needs 3")

    for name in ("packages", "device", "graph", "video", "inputs", "mlflow", "memory"):
        monkeypatch.setattr(doctor, name, lambda: "fine")
    monkeypatch.setattr(doctor, "disk", broken)
    found = run("doctor", "--json")
    told = json.loads(found.stdout)
    assert found.exit_code == 1 and told["ok"] is False and len(told["checks"]) == 10
    assert {"check": "disk", "ok": False, "found": "0.1 GiB free; the demo needs 3"} in told["checks"]
    assert [one["check"] for one in told["checks"] if not one["ok"]] == ["disk"]
    with pytest.raises(BadInput, match="--json lists the checks"):
        run("doctor", "--profile", "smoke", "--json")


def test_deploy_prints_its_result_as_json(tmp_path, monkeypatch):
    (tmp_path / deployment.MODEL).mkdir()
    monkeypatch.setattr(deployment, "serves_already", lambda *_: 3)
    given = ("deploy", "http://127.0.0.1:9", "--live", str(tmp_path), "--model", str(tmp_path))
    assert json.loads(run(*given, "--json").stdout) == {"state": "serves already", "version": 3, "model": str(tmp_path)}
    assert run(*given).stdout == f"version 3 serves already: {tmp_path}\n"


@pytest.mark.parametrize("text", ["VQ", "VQ=", "=1", "VQ=a", "VQ=nan", "VQ=inf", "VQ=1,,TA=1", "VQ=1,VQ=2", ""])
def test_weights_that_are_none(text):
    with pytest.raises(BadInput, match=r"--guide: "):
        parse_weights(text)


def test_a_dimension_that_the_model_lacks_is_blamed_on_the_option(tmp_path):
    facts = {"generator": "abc", "dimensions": ["VQ", "TA"], "blocks": 1, "frozen": True}
    write_json(tmp_path / "latent_reward.json", facts)
    check_dimensions([{"VQ": 1.0}, {"TA": 0.5}], tmp_path)
    with pytest.raises(BadInput, match=r"--guide, key 'XX': .* scores VQ, TA"):
        check_dimensions([{"VQ": 1.0}, {"XX": 0.5}], tmp_path)


def test_a_drawn_clip_says_what_it_was_drawn_with(tmp_path):
    save_generator(tiny_generator(), tmp_path / "generator")
    out = tmp_path / "clips"
    draw = ("generate", "--prompt", "a red circle", "--generator", str(tmp_path / "generator"), "--out", str(out))
    assert run(*draw, "--seed", "3").exit_code == 0
    (record,) = (json.loads(file.read_text()) for file in out.glob("*.json"))
    assert record["prompt"] == "a red circle" and record["seed"] == 3
    assert record["generator"]["digest"] == folder_digest(tmp_path / "generator")
    assert record["sampling"] == load_params().sampling.model_dump() and record["guidance"] is None
    (clip,) = out.glob("*.mp4")
    before = clip.read_bytes()
    with pytest.raises(BadInput, match=r"000_3\.mp4: exists already"):
        run(*draw, "--seed", "3")
    assert run(*draw, "--seed", "3", "--overwrite").exit_code == 0 and clip.read_bytes() == before


def test_a_strength_without_guidance_is_refused(tmp_path):
    with pytest.raises(BadInput, match="--scale: needs --guide"):
        run("generate", "--prompt", "a red circle", "--scale", "3", "--out", str(tmp_path / "clips"))
    assert not (tmp_path / "clips").exists()


def test_every_command_stands_in_a_group_of_the_help_and_has_an_example():
    """The examples are lines of docs/reference/cli.md, whose commands tests/test_docs.py checks."""
    for name, command in typer.main.get_command(app).commands.items():
        assert command.rich_help_panel, name
        assert name in ("annotate", "study", "judge", "lora") or command.epilog.startswith(f"Example: reelign {name} "), name
