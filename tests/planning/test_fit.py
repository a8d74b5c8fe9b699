"""Settings with which a profile fits a card: the batch stays, what fits stays, and the least that would fit is said."""

import pytest
import yaml
from typer.testing import CliRunner

from components.cli.main import app
from components.config.params import Params, load_params
from components.errors import BadInput
from components.methods import trained
from components.planning.budget import budget_of
from components.planning.fit import GIB, changes, edited, fitted
from tests.conftest import REPOSITORY
from tests.planning.measured import measured, profile

SMALL, LARGE = "wan2.1-1.3b", "wan2.1-14b"


@pytest.fixture(autouse=True)
def here(in_repository):
    """Architectures and templates are found from the checkout."""


@pytest.mark.parametrize(("name", "memory"), [(SMALL, 24), (LARGE, 80)])
def test_the_wan_profiles_fit_their_cards(name, memory):
    before, found = profile(name), measured(name)
    after = fitted(before, found, memory, 1)
    plan = budget_of(after, found)
    assert len(plan.memory) == 18, "all stages that hold a model"
    assert max(plan.peak(stage) for stage in plan.memory) <= memory * GIB
    assert max(plan.peak(f"align@{method}") for method in trained()) <= memory * GIB
    for own in trained().values():
        old, new = (getattr(params.align, own.params).training for params in (before, after))
        assert new.batch_size * new.accumulation == old.batch_size * old.accumulation == 64, "the paper's batch"
    for section in ("reward", "latent_reward"):
        old, new = (getattr(params, section).training for params in (before, after))
        assert new.batch_size * new.accumulation == old.batch_size * old.accumulation
    unchanged = {"steps", "lora", "dtype", "trunk", "weights", "learning_rate", "loss"}
    assert not unchanged & set(keys(changes(before.model_dump(), after.model_dump())))


def keys(values: dict) -> list[str]:
    return [key for name, value in values.items() for key in ([name, *keys(value)] if isinstance(value, dict) else [name])]


def test_what_fits_is_left_as_it_is():
    assert fitted(profile(SMALL), measured(SMALL), 200, 1) == profile(SMALL)


def test_smaller_microbatches_come_before_checkpointing_and_offload():
    before, found = profile(SMALL), measured(SMALL)
    for memory, offload in ((24, False), (14, True)):
        try:
            after = fitted(before, found, memory, 1)
        except BadInput as error:  # stages other than alignment need more than 14 GiB
            assert "align@" not in str(error) and offload
            continue
        assert after.align.offload is offload and after.align.dpo.training.batch_size == 1
    lavish = before.align.model_copy(update={"gradient_checkpointing": False})
    wide = fitted(before.model_copy(update={"align": lavish}), found, 400, 1)
    assert not wide.align.gradient_checkpointing and wide.align.dpo.training.batch_size < 4


def test_the_least_that_fits_is_said_and_fits():
    before, found = profile(SMALL), measured(SMALL)
    with pytest.raises(
        BadInput, match=r"4 GiB on each of 1 is too little, ([\d.]+) GiB would fit \(reward needs"
    ) as refused:
        fitted(before, found, 4, 1)
    least = float(str(refused.value).split(" GiB would fit")[0].split()[-1])
    fitted(before, found, least + 0.1, 1)
    with pytest.raises(BadInput, match="is too little"):
        fitted(before, found, least - 0.1, 1)


def test_gpus_share_weights_and_batch():
    before, found = profile(LARGE), measured(LARGE)
    wide = before.align.dpo.training.model_copy(update={"batch_size": 8, "accumulation": 8})
    align = before.align.model_copy(update={"dpo": before.align.dpo.model_copy(update={"training": wide})})
    after = fitted(before.model_copy(update={"align": align}), found, 141, 8)
    assert after.align.dpo.training.batch_size == 8, "a pair on each"
    with pytest.raises(BadInput, match="align@dpo"):
        fitted(before, found, 20, 8)


def test_an_edited_profile_keeps_its_comments_and_its_anchors():
    text = "# why\na: {b: 1, c: [1, 2]}  # here\nd: &x\n  e: 4\n  f: true # yes\ng: *x\n"
    new = edited(text, {"a": {"b": 20}, "d": {"f": False}, "g": {"f": False}})
    assert new == "# why\na: {b: 20, c: [1, 2]}  # here\nd: &x\n  e: 4\n  f: false # yes\ng: *x\n"
    source = (REPOSITORY / f"infra/profiles/{SMALL}.yaml").read_text()
    after = fitted(profile(SMALL), measured(SMALL), 24, 1)
    changed = changes(profile(SMALL).model_dump(), after.model_dump())
    whole = edited(source, changed)
    assert Params.model_validate(yaml.safe_load(whole)) == after
    assert [line for line in whole.splitlines() if "#" in line] == [line for line in source.splitlines() if "#" in line]


def test_the_command_prints_yaml_and_writes_params(tmp_path, monkeypatch):
    for name in ("infra", "components", "pretrained"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("components.planning.budget.measure", lambda params: measured(SMALL))
    words = ["doctor", "--profile", SMALL, "--memory", "24", "--fit"]
    said = CliRunner().invoke(app, words, catch_exceptions=False)
    assert said.exit_code == 0 and not (tmp_path / "params.yaml").exists()
    assert yaml.safe_load(said.stdout)["align"]["dpo"]["training"] == {"batch_size": 1, "accumulation": 64}
    said = CliRunner().invoke(app, [*words, "--write"], catch_exceptions=False)
    assert said.exit_code == 0 and "params.yaml is now" in said.stderr
    assert load_params("params.yaml").align.dpo.training.batch_size == 1
    again = CliRunner().invoke(app, [*words, "--write"])
    assert isinstance(again.exception, BadInput) and "was edited" in str(again.exception)
    assert CliRunner().invoke(app, [*words, "--write", "--force"]).exit_code == 0
    for wrong in (["--fit"], ["--fit", "--profile", SMALL], ["--write"], [*words[1:], "--force"], [*words[1:], "--json"]):
        assert isinstance(CliRunner().invoke(app, ["doctor", *wrong]).exception, BadInput)
