"""MLflow's own pages of a version, its model and its run, on a real server and in a browser; and loading it from there."""

import asyncio
import sys

import pytest

from components.pipeline.logged_models import logged_id
from components.pipeline.stage import Stage, folder_digest
from components.registry.versions import connect, fetch, find
from components.reward.bench import reward_bench
from components.reward.score import RewardModel
from tests.annotation.browser import browser
from tests.registry.server import Server
from tests.registry.test_mlflow_model import MODEL, predicted
from tests.registry.world import environment, make_checkout, random_model, register

pytestmark = pytest.mark.browser


@pytest.fixture
def served(tmp_path, in_repository, monkeypatch):
    """A checkout whose MLflow is a server, with a version that reward_bench has measured."""
    (tmp_path / "world").mkdir()
    monkeypatch.chdir(make_checkout(tmp_path / "world"))
    server = Server(tmp_path)
    server.start()
    try:
        with environment(MLFLOW_TRACKING_URI=server.uri):
            register(random_model(tmp_path / "random"), {"validation/accuracy_without_ties/VQ": 0.75})
            Stage("reward_bench").run(reward_bench)
            yield server
    finally:
        server.kill()


def test_the_pages_show_signature_metrics_and_data(served, tmp_path):
    client = connect()
    record = find(client, MODEL, "challenger")
    logged = client.get_logged_model(logged_id(record))
    assert fetch(record).digest == record.tags["model.digest"]
    told = predicted(sys.executable, tmp_path / "world", served.uri)
    (local,) = RewardModel.load("models/video_reward").score([("data/source/videos/0.mp4", "a red circle")])
    assert told["found"][1]["Overall"] == pytest.approx(local.overall, abs=1e-5)

    experiment, run = logged.experiment_id, record.run_id
    pairs = folder_digest("data/pairs")

    async def seen() -> None:
        async with browser(tmp_path / "profile") as page:

            async def shows(*words: str) -> None:
                for word in words:
                    await page.wait_for(f"document.body.innerText.includes({word!r})", 60)

            async def press(text: str) -> None:
                named = f"[...document.querySelectorAll('*')].filter(one => one.innerText === {text!r})"
                await page.evaluate(f"{named}.at(-1).click()")

            await page.open(f"{served.uri}/#/models/{MODEL}/versions/{record.version}")
            await shows("Inputs (3)", "Outputs (11)")
            for group, column in (("Inputs (3)", "prompt"), ("Outputs (11)", "raw_VQ")):
                await press(group)
                await shows(column)
            await page.open(f"{served.uri}/#/experiments/{experiment}/models/{logged.model_id}")
            await shows("test/accuracy_without_ties/VQ", "validation/accuracy_without_ties/VQ", "0.75", "pairs", pairs[:8])
            await page.open(f"{served.uri}/#/experiments/{experiment}/runs/{run}")
            await shows(f"pairs ({pairs})", "+1")
            await press("+1")
            await shows("clips (")

    asyncio.run(seen())
