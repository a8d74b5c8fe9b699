"""Pages say what the project has: reference pages follow the code, links lead somewhere, and commands exist."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from components.video.encode import write_video
from tests.documented import OWN_FOLDERS, PAGES, blocks, commands, exists, trouble
from tests.evaluation.fixtures import make_other_stages, make_samples, metrics_of, write

# Made from the demo's clips and report, after a run of it.
OF_THE_DEMO = {Path("docs/assets/base-and-dpo.gif"), Path("docs/assets/report.png")}


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generate():
    return script("generate")


def test_generated_pages_are_current(generate):
    for path, text in generate.pages().items():
        assert path.read_text() == text, f"{path}: make docs-pages"


def test_a_param_without_a_meaning_is_named(generate, tmp_path, monkeypatch):
    meanings = yaml.safe_load(Path("docs/meanings.yaml").read_text())
    del meanings["DpoParams"]["beta"]
    (tmp_path / "meanings.yaml").write_text(yaml.safe_dump(meanings))
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    with pytest.raises(SystemExit, match=r"no line for DpoParams\.beta"):
        generate.params_page()


def test_the_table_of_results_is_that_of_the_metrics(generate, tmp_path):
    assert generate.results_table(tmp_path) is None
    clips, looks = make_samples(tmp_path, prompts=6, seeds=2)
    make_other_stages(tmp_path)
    metrics = metrics_of(tmp_path, clips, looks)
    write(tmp_path / "metrics/alignment.json", json.loads(json.dumps(metrics | {"profile": "shapes"})))
    found = metrics["methods"]["dpo"]["win_rate"]["gold"]["Overall"]
    low, high = found["ci95"]
    shown = f"{100 * found['value']:.1f}% [{100 * low:.0f}, {100 * high:.0f}]"
    (row,) = (line for line in generate.results_table(tmp_path / "metrics").splitlines() if "Flow-DPO" in line)
    assert row.split("|")[5].strip() == shown
    write(tmp_path / "metrics/alignment.json", metrics | {"profile": "smoke"})
    assert generate.results_table(tmp_path / "metrics") is None


@pytest.mark.demo
def test_the_readme_has_the_results_of_the_demo(generate):
    assert Path("README.md").read_text() == generate.readme(), "make docs-pages"


def test_the_readme_is_short():
    assert 80 <= len(Path("README.md").read_text().splitlines()) <= 120


def test_the_readme_names_what_ci_runs():
    readme = Path("README.md").read_text()
    for target in re.findall(r"^ *(make [\w-]+)", Path(".ci/run").read_text(), re.MULTILINE):
        assert f"`{target}`" in readme or f"\n{target} " in readme, target


def test_every_page_is_in_the_navigation():
    nav = re.findall(r": ([\w/-]+\.md)$", Path("mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(nav) == sorted(str(path.relative_to("docs")) for path in Path("docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text()
    prose = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:|#", target):
            path = Path(os.path.normpath(page.parent / target.partition("#")[0]))
            assert path.exists() or path in OF_THE_DEMO, f"{page}: {target}"
    for path in re.findall(r"`((?:\w[\w.-]*|\.ci)/[\w./*-]+)`", prose):
        if path.startswith(tuple(f"{folder}/" for folder in OWN_FOLDERS)) and not re.search(r"AREA|STAGE", path):
            assert exists(path) or Path(path) in OF_THE_DEMO, f"{page}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_has_what_it_names(page):
    for whole, words in commands(page.read_text()):
        found = trouble(whole, words)
        assert found is None, f"{page}: {' '.join(words)}: {found}"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("reelign scores a.mp4", "no command scores"),
        ("reelign score a.mp4 --promt x", "no option --promt"),
        ("reelign deploy http://127.0.0.1:8000", "Missing option '--live'"),
        ("reelign run-with reward_bench promote --dry", "no option --dry"),
        ("reelign serve --http-port many", "Invalid value for '--http-port'"),
        ("make tests", "no target tests"),
        ("make demo PROFIL=examples", "no variable PROFIL"),
        ("dvc repro rewards", "no stage rewards"),
        ("dvc exp run -S align.dpo.betas=1", "no key align.dpo.betas"),
        ("dvc reproduce", "dvc has no command"),
        ("python -m components.alignment.methods.dpo", "no module"),
        ("python benchmarks/guidance.py --fast", "no option --fast"),
        ("A=b accelerate launch --config_file infra/accelerate/ddp.yaml -m components.reward.train", "no file"),
    ],
)
def test_a_command_that_is_not_there_is_found(command, why):
    ((whole, words),) = commands(f"```sh\n{command}\n```\n")
    assert why in trouble(whole, words)


def marked() -> list[tuple[str, str]]:
    return [(str(page), body) for page in PAGES for run, body in blocks(page.read_text(), "sh") if run]


@pytest.mark.parametrize(("page", "body"), marked(), ids=[page for page, _ in marked()])
def test_blocks_that_are_marked_run(page, body, tmp_path):
    """In a folder that has the checkout's inputs and params.yaml."""
    for name in ("infra", "components", "docker", "pretrained", "dvc.yaml"):
        (tmp_path / name).symlink_to(Path(name).resolve())
    shutil.copyfile("params.yaml", tmp_path / "params.yaml")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(["bash", "-ec", body], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_gif_shows_base_beside_the_method(tmp_path):
    from PIL import Image

    from components.files.tables import write_table
    from components.schemas import SAMPLES_SCHEMA

    rng, rows = np.random.default_rng(0), []
    for prompt in range(5):
        name = f"videos/p{prompt}_0.mp4"
        rows.append({"prompt_id": f"p{prompt}", "prompt": f"a red circle moving up {prompt}", "seed": 0, "path": name})
        for method, level in (("base", 40), ("dpo", 200)):
            frames = np.full((5, 32, 32, 3), level, np.uint8) + rng.integers(0, 3, (5, 32, 32, 3), dtype=np.uint8)
            write_video(tmp_path / "samples" / method / name, frames, 8)
    for method in ("base", "dpo"):
        write_table(tmp_path / "samples" / method / "samples.parquet", rows, SAMPLES_SCHEMA)
    make_gif = script("make_gif")
    make_gif.make(tmp_path / "samples", tmp_path / "made.gif", "dpo", count=4)
    with Image.open(tmp_path / "made.gif") as made:
        assert made.n_frames == 5 and made.info["duration"] == 120  # GIF has hundredths of a second: 125 is not there
        first = np.asarray(made.convert("L"))
    side = make_gif.SIDE
    base, dpo = first[make_gif.TOP + 10, 10], first[make_gif.TOP + 10, side + 10]
    assert abs(int(base) - 40) < 12 and abs(int(dpo) - 200) < 12
