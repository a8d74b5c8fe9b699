"""params.yaml is typed: what is wrong in it is named."""

import shutil
from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import modify_yaml

from components.config.params import load_params
from components.config.pretrain import load_pretrain_params
from components.errors import BadInput

PROFILES = sorted(Path("infra/profiles").glob("*.yaml"))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_is_valid_and_named_after_its_file(path):
    assert load_params(path).profile == path.stem


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_dvc_can_write_a_profile(path, tmp_path):
    """As `dvc exp run -S KEY=VALUE` does: in its own style, without quotes; a URL in braces would not be read back."""
    file = shutil.copyfile(path, tmp_path / "params.yaml")
    with modify_yaml(file) as values:
        values["seed"] += 1
    changed = load_params(file)
    assert changed == load_params(path).model_copy(update={"seed": changed.seed})


def test_the_checked_in_params_are_the_shapes_profile():
    assert yaml.safe_load(Path("params.yaml").read_text()) == yaml.safe_load(Path("infra/profiles/shapes.yaml").read_text())


def write(tmp_path: Path, change) -> Path:
    values = yaml.safe_load(Path("params.yaml").read_text())
    change(values)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("change", "key", "why"),
    [
        (lambda v: v["align"]["dpo"].update(betta=1), "align.dpo.betta", "unknown key"),
        (lambda v: v["align"]["dpo"].pop("beta"), "align.dpo.beta", "missing key"),
        (lambda v: v["align"]["dpo"].update(beta=-1), "align.dpo.beta", "greater than 0"),
        (lambda v: v.pop("reward"), "reward", "missing key"),
        (lambda v: v.update(rewards={}), "rewards", "unknown key"),
        (lambda v: v["candidates"].update(per_prompt=1), "candidates.per_prompt", "greater than or equal to 2"),
        (
            lambda v: v["reward"]["frames"].update(min_pixels=1025),
            "reward.frames",
            "min_pixels 1025 is above max_pixels 1024",
        ),
        (
            lambda v: v["orchestration"].update(stages={"curate": {"nodes": 2}}, runner="kubernetes"),
            "orchestration",
            "orchestration.stages.curate.nodes: stage curate runs on one node; several can share reward, judge_reward, "
            "candidates, align, sample",
        ),
        (
            lambda v: v["orchestration"].update(stages={"align@dpo": {"nodes": 2}}),
            "orchestration",
            "orchestration.stages.align@dpo.nodes: runner local starts one node, kubernetes several",
        ),
        (lambda v: v["reward"]["frames"].update(frames=None), "reward.frames", "needs fps or frames, one of them"),
        (lambda v: v["reward"]["frames"].update(fps=2.0), "reward.frames", "needs fps or frames, one of them"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, change, key, why):
    path = write(tmp_path, change)
    with pytest.raises(BadInput) as caught:
        load_params(path)
    line = str(caught.value)
    assert str(path) in line and f"'{key}'" in line and why in line and "\n" not in line


S3 = {"kind": "s3", "folder": "s3://bucket/a/b", "csv": "labels.csv", "workers": 8, "patience": 120}


@pytest.mark.parametrize("folder", ["s3://bucket", "s3://my.bucket-1/a b/é"])
@pytest.mark.parametrize("end", ["", "/"])
def test_a_bucket_is_a_source(tmp_path, folder, end):
    assert load_params(write(tmp_path, lambda v: v.update(source=S3 | {"folder": folder + end}))).source.folder == folder


@pytest.mark.parametrize("folder", ["bucket/a", "s3://", "s3:///", "s3://bucket/a//b", "S3://bucket", "s3://Bucket/a"])
def test_a_bucket_that_is_no_address_is_named(tmp_path, folder):
    with pytest.raises(BadInput, match=rf"key 'source.folder': '{folder.removesuffix('/')}' is not s3://bucket/prefix: "):
        load_params(write(tmp_path, lambda v: v.update(source=S3 | {"folder": folder})))


@pytest.mark.parametrize(
    ("source", "key"),
    [
        (S3 | {"worker": 8}, "source.worker"),
        (S3 | {"workers": 0}, "source.workers"),
        ({"kind": "folder", "folder": "a"}, "source.csv"),
        ({"kind": "folder", "folder": 3, "csv": "a.csv"}, "source.folder"),
        ({"kind": "bucket"}, "source"),
    ],
)
def test_a_key_is_named_as_the_file_has_it(tmp_path, source, key):
    with pytest.raises(BadInput, match=f", key '{key}': "):
        load_params(write(tmp_path, lambda v: v.update(source=source)))


@pytest.mark.parametrize("readout", ["single_special", "last", "mean"])
def test_readouts_at_one_place_need_a_row_a_dimension(tmp_path, readout):
    path = write(tmp_path, lambda v: v["reward"].update(readout=readout))
    assert load_params(path).reward.readout == readout
    path = write(tmp_path, lambda v: v["reward"].update(readout=readout, head="shared"))
    with pytest.raises(BadInput, match=rf"key 'reward.head': .*readout '{readout}'"):
        load_params(path)


def test_a_missing_file_and_a_file_that_is_not_yaml(tmp_path):
    with pytest.raises(BadInput, match="missing"):
        load_params(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1,")
    with pytest.raises(BadInput, match="not YAML"):
        load_params(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("seed: 2026-13-45", "a value cannot be read: month must be in 1..12"),
        (f"seed: {'9' * 5000}", "a value cannot be read: Exceeds the limit"),
        ("seed: !!int abc", "a value cannot be read: invalid literal"),
        ("seed: !!bool maybe", "a value does not match its tag"),
        ("seed: !!timestamp x", "a value does not match its tag"),
        ("profile: x\nseed: &s {a: *s}", "row 2: holds an alias of itself"),
    ],
)
def test_values_that_yaml_cannot_make_are_one_line(tmp_path, text, why):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(BadInput, match=why):
        load_params(tmp_path / "bad.yaml")


def test_aliases_of_aliases_are_looked_at_once(tmp_path):
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30))]
    (tmp_path / "bad.yaml").write_text("\n".join(lines))
    with pytest.raises(BadInput, match="key 'a0': unknown key"):
        load_params(tmp_path / "bad.yaml")


def test_params_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_params().seed = 1


def test_what_the_pretrained_models_were_made_with_is_valid():
    assert load_pretrain_params().vlm.training.steps > 0


def test_a_wrong_key_of_pretraining_is_named(tmp_path, monkeypatch):
    values = yaml.safe_load(Path("pretrained/params.yaml").read_text())
    values["vlm"]["stepps"] = 1
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained/params.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"params\.yaml, row \d+, key 'vlm\.stepps': unknown key"):
        load_pretrain_params()
