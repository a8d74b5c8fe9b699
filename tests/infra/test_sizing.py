"""The sizing page says what its inputs give: no figure by hand, and the arithmetic is that of `reelign doctor`."""

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.cli.main import app

pytestmark = pytest.mark.infra

SPEC = importlib.util.spec_from_file_location("sizing", "infra/sizing.py")
sizing = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(sizing)


def test_tables_are_what_the_inputs_give():
    text = Path("infra/SIZING.md").read_text()
    assert sizing.filled(text) == text, "python infra/sizing.py"


def test_hours_of_a_profile_are_those_of_doctor():
    rate = sizing.given("GPU") * sizing.given("share of it that is reached") / 1e12
    said = CliRunner().invoke(
        app, ["doctor", "--profile", "wan2.1-1.3b", "--tflops", str(rate), "--memory", "80", "--gpus", "8"]
    )
    told = {line.split()[0]: float(line.split()[-2]) for line in said.stdout.splitlines() if line.endswith(" h")}
    found = sizing.profiles_own("wan2.1-1.3b").hours(8)
    for stage in ("candidates", "align@sft", "align@rwr", "align@dpo"):
        assert found[stage] == pytest.approx(told[stage], abs=0.01)
    assert found["reference errors"] == pytest.approx(told["reference"], abs=0.01)
    assert found["sample, 5 methods"] == pytest.approx(told["sample"] * 5 / 4, abs=0.02)


def test_a_batch_keeps_as_many_gpus_busy_as_it_has_pairs():
    assert sizing.efficiency(64) == sizing.efficiency(8) == 1
    assert sizing.efficiency(100) == pytest.approx(0.64)
    small, large = (sizing.papers_own("wan2.1-14b").hours(gpus) for gpus in (64, 100))
    assert large["align@dpo"] == pytest.approx(small["align@dpo"]), "thirty-six of them have nothing to do"
    assert large["candidates"] == pytest.approx(small["candidates"] * 0.64)


def test_every_input_says_where_it_is_from():
    assert {item.kind for item in sizing.INPUTS.values()} == {"measured", "published", "assumed"}
    assert all(item.where for item in sizing.INPUTS.values())
