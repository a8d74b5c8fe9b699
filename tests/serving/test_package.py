"""Stage package: what lies in the model repository, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from components.config.params import PackageParams
from components.errors import BadInput
from components.pipeline.stage import folder_digest
from components.reward.score import RewardModel
from components.serving.package import package
from components.serving.repository import write_repository
from tests.limits import LIMIT_PARAMS
from tests.reward.tiny import tiny_card, tiny_model

PARAMS = PackageParams(
    max_batch_size=4,
    max_queue_delay=1000,
    max_queue_size=None,
    token_budget=512,
    processes=1,
    limits=LIMIT_PARAMS,
    environment=None,
)


class PlainStage:
    """What the stage uses of a Stage, without a pipeline around it."""

    params = SimpleNamespace(package=PARAMS)

    def output(self, path: str) -> Path:
        return Path(path)

    def say(self, text: str) -> None:
        self.said = text


@pytest.fixture
def model_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_model()
    folder = Path("models/video_reward")
    model.save(folder, tiny_card(model))
    return folder


def test_packaged_model_is_the_model(model_folder):
    stage = PlainStage()
    package(stage)
    version = Path("serving/model_repository/video_reward_model/1")
    assert folder_digest(version / "video_reward") == folder_digest(model_folder)
    assert RewardModel.load(version / "video_reward").version in stage.said
    source = Path(__file__).parents[2] / "components/serving/backend/model.py"
    assert (version / "model.py").read_bytes() == source.read_bytes()
    assert sorted(path.name for path in version.iterdir()) == ["model.py", "video_reward"]


def test_config_says_how_requests_are_batched(model_folder, tmp_path):
    write_repository(tmp_path / "repository", model_folder, PARAMS)
    config = (tmp_path / "repository/video_reward_model/config.pbtxt").read_text()
    assert "max_batch_size: 4\n" in config
    assert "max_queue_delay_microseconds: 1000" in config
    assert '"token_budget" value { string_value: "512" }' in config
    assert f'"limit_pixels" value {{ string_value: "{LIMIT_PARAMS.pixels}" }}' in config
    assert "dims: [4, 32, 32, 3] random_data" in config  # the warm-up: as many frames as the plan has
    assert "count: 1 kind: KIND_AUTO" in config
    assert "EXECUTION_ENV_PATH" not in config and "queue_size" not in config
    assert config.count("{") == config.count("}")


def test_a_queue_may_have_a_bound(model_folder, tmp_path):
    write_repository(tmp_path, model_folder, PARAMS.model_copy(update={"max_queue_size": 64}))
    config = (tmp_path / "video_reward_model/config.pbtxt").read_text()
    assert "default_queue_policy { max_queue_size: 64 }\n}" in config
    assert config.count("{") == config.count("}")


def test_fronts_name_the_version_that_serves_and_its_plan(model_folder, tmp_path):
    write_repository(tmp_path, model_folder, PARAMS)
    for front in ("video_reward", "video_reward_file"):
        config = (tmp_path / front / "config.pbtxt").read_text()
        assert "model_version: 1\n" in config
        assert f'"model_version" value {{ string_value: "{folder_digest(model_folder)}" }}' in config
        assert '"frame_plan" value { string_value: "4frames 64-1024px/8" }' in config
        assert config.count("{") == config.count("}")
        assert any((tmp_path / front / "1").iterdir())  # DVC keeps no empty folder


def test_environment_of_the_backend_is_named_where_it_is_given(model_folder, tmp_path):
    write_repository(tmp_path, model_folder, PARAMS.model_copy(update={"environment": "/opt/reelign"}))
    config = (tmp_path / "video_reward_model/config.pbtxt").read_text()
    assert 'key: "EXECUTION_ENV_PATH" value { string_value: "/opt/reelign" }' in config


def test_untrained_model_is_not_packaged(model_folder):
    facts = model_folder / "video_reward.json"
    facts.write_text(facts.read_text().replace('"head_trained": true', '"head_trained": false'))
    with pytest.raises(BadInput, match="never trained"):
        package(PlainStage())
    assert not Path("serving").exists()


def test_missing_model_is_bad_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="models/video_reward: no such folder of a model"):
        package(PlainStage())
