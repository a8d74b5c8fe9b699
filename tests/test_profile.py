"""`reelign profile`: a file of infra/profiles in place of params.yaml, and what a person has edited is never lost."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.cli.main import PROFILES, app
from components.errors import BadInput
from components.generator.folder import check_folder


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A folder with the profiles; its params.yaml, which is the profile shapes."""
    (tmp_path / "infra").mkdir()
    (tmp_path / PROFILES).symlink_to(PROFILES.resolve())
    monkeypatch.chdir(tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text((PROFILES / "shapes.yaml").read_text())
    return params


def profile(*arguments: str) -> None:
    CliRunner().invoke(app, ["profile", *arguments], catch_exceptions=False)


def test_takes_the_place_of_another_profile(checkout):
    profile("smoke")
    assert checkout.read_text() == (PROFILES / "smoke.yaml").read_text()


def test_a_missing_params_file_is_no_obstacle(checkout):
    checkout.unlink()
    profile("examples")
    assert checkout.read_text() == (PROFILES / "examples.yaml").read_text()


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("base_clips_per_prompt: 3", "base_clips_per_prompt: 4", "equals no profile"),
        ("base_clips_per_prompt: 3", "own_clip: 3", "key 'source.own_clip': unknown key"),
        ("seed: 17", "seed: [", r"params.yaml, row \d+: not YAML: while parsing"),
    ],
)
def test_what_was_edited_stays_unless_forced(checkout, old, new, said):
    edited = checkout.read_text().replace(old, new)
    checkout.write_text(edited)
    with pytest.raises(BadInput, match=said):
        profile("smoke")
    assert checkout.read_text() == edited
    profile("smoke", "--force")
    assert checkout.read_text() == (PROFILES / "smoke.yaml").read_text()


def test_an_unknown_profile_names_those_there_are(checkout):
    with pytest.raises(BadInput, match="smoke"):
        profile("smok")


def test_what_a_profile_starts_from_and_is_not_there(checkout):
    """DVC ends at a missing folder with an error number, so the folder is there, empty, for the stage to speak of."""
    result = CliRunner().invoke(app, ["profile", "wan2.1-1.3b"], catch_exceptions=False)
    for model in ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Qwen/Qwen2-VL-2B-Instruct"):
        folder = f"downloads/{model.split('/')[1]}"
        assert f"{folder} is not there yet; `reelign fetch {model} --to {folder}` downloads it" in result.output
        assert (checkout.parent / folder).is_dir()
    assert "preferences is not there yet; put clips and labels there, or name another folder in params.yaml" in result.output
    with pytest.raises(BadInput, match=r"downloads/Wan2\.1-T2V-1\.3B-Diffusers.*`reelign fetch Wan-AI/"):
        check_folder(Path("downloads/Wan2.1-T2V-1.3B-Diffusers"))
