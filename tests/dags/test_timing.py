"""When DAGs with a timetable run, as the scheduler computes it: from the serialised DAG, at many moments."""

from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("airflow", reason="needs the orchestrator environment: make test-dags")

import pendulum
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowSkipException
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables import trigger
from airflow.timetables.base import DagRunInfo

from dags.timing import LATE, skip_late

REPOSITORY = Path(__file__).parents[2]
SUNDAY = pendulum.datetime(2026, 11, 29, 3)  # a tick of `retrain`
WEEK, HOUR = timedelta(weeks=1), timedelta(hours=1)
TICKS = {"retrain": (SUNDAY, WEEK), "monitor": (SUNDAY.add(minutes=7), HOUR)}


@pytest.fixture(scope="module")
def dags():
    bag = DagBag(str(REPOSITORY / "dags"))
    assert bag.import_errors == {}
    return bag.dags


@pytest.fixture
def due(dags, monkeypatch):
    """The time of a DAG's next run at some moment, after its last scheduled run, if there was one."""

    def ask(name: str, now: datetime, last: datetime | None = None) -> datetime:
        monkeypatch.setattr(trigger, "utcnow", lambda: now)
        dag = DagSerialization.from_dict(DagSerialization.to_dict(dags[name]))
        info = last and DagRunInfo.interval(last, last)
        return dag.next_dagrun_info(last_automated_run_info=info).run_after

    return ask


@pytest.mark.parametrize("name", TICKS)
@pytest.mark.parametrize("share", [0.02, 0.099, 0.5, 0.9999])  # of the interval; Airflow's own buffer is a tenth
def test_the_first_run_of_a_dag_is_the_tick_after_it_was_unpaused(due, name, share):
    tick, interval = TICKS[name]
    now = tick + max(share * interval, LATE + timedelta(seconds=1))
    assert due(name, now) == tick + interval


@pytest.mark.parametrize("name", TICKS)
@pytest.mark.parametrize("last", [None, 1])
def test_a_tick_is_not_lost_where_dags_are_parsed_just_after_it(due, name, last):
    """Between the tick and the scheduler's next round."""
    tick, interval = TICKS[name]
    for late in (timedelta(0), timedelta(seconds=1), timedelta(minutes=2)):
        assert due(name, tick + late, last and tick - interval) == tick
        assert due(name, tick + late, tick) == tick + interval


def run(late: timedelta, kind: str = "scheduled", cleared: int = 0) -> dict:
    began = SUNDAY + late
    return {"dag_run": SimpleNamespace(run_after=SUNDAY, start_date=began, run_type=kind, clear_number=cleared)}


def test_what_comes_late_is_skipped_unless_somebody_asked(due):
    """After a pause, or when the scheduler was down, Airflow begins with the tick before, whatever the timetable says."""
    late = timedelta(days=3)
    assert due("retrain", SUNDAY + late, SUNDAY - 4 * WEEK) == SUNDAY
    with pytest.raises(AirflowSkipException, match="2026-11-29 03:00 UTC, begun 2026-12-02"):
        skip_late(run(late))
    skip_late(run(LATE))
    for kind in ("manual", "asset_triggered", "operator_triggered", "backfill"):
        skip_late(run(late, kind))
    skip_late(run(late, cleared=1))


def test_the_hook_is_before_all_that_a_dag_begins_with(dags):
    for name in TICKS:
        hooked = {task.task_id for task in dags[name].tasks if task._pre_execute_hook is skip_late}
        assert hooked == {task.task_id for task in dags[name].roots}


def test_every_dag_leaves_its_start_to_its_timetable(dags):
    """With a start date in the past, the tick before it was unpaused runs at once."""
    assert {name: dag.start_date for name, dag in dags.items()} == dict.fromkeys(("retrain", "monitor", "deploy", "label"))
