"""What a name given to `reelign lineage` stands for."""

import json

import pytest

from components.errors import BadInput
from components.pipeline.mlflow_store import all_pages, mlflow_client
from components.registry.lineage import Runs, start
from components.registry.versions import registered_name
from tests.registry.world import environment


@pytest.mark.parametrize("given", ["report/gone.html", "data/pairs/gone.parquet"])
def test_a_file_that_is_missing_is_not_taken_for_a_model(given):
    with pytest.raises(BadInput, match=f"^{given}: no such file$"):
        start(None, None, given)


def test_runs_behind_a_page_are_found(tmp_path, in_repository, monkeypatch):
    """Five stages on record, in pages of two; registered models come by the hundred and no more."""
    monkeypatch.chdir(tmp_path)
    with environment(MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db"):
        client = mlflow_client()
        experiment = client.create_experiment("reelign-smoke")
        for number in range(5):
            run = client.create_run(experiment, tags={"dvc.stage": "s", "data.outputs": json.dumps({"a": f"{number}"})})
            client.set_terminated(run.info.run_id)
        assert len(list(all_pages(client.search_runs, [experiment], max_results=2))) == 5
        assert [Runs.load(client).maker(f"{number}").outputs for number in range(5)] == [{"a": f"{n}"} for n in range(5)]
        for number in range(101):
            client.create_registered_model(f"model-{number:03d}")
        assert registered_name(client, "model-100") == "model-100"
