#!/usr/bin/env bash
# Airflow 3.3.2: `dag.test()` of a DAG with a DeadlineAlert ends with an error of SQLAlchemy after its tasks have succeeded; the
# same DAG without the deadline ends well. Runs of the scheduler are not concerned.
#
# Seen: one EmptyOperator, SQLite. With the deadline: "StatementError: (builtins.AttributeError) 'dict' object has no attribute
# 'hex'", from a query of deadline_alert by an id that is an empty dict. With `dag.deadline = None` before the call: success.
#
# Why it matters: `dag.test()` is how DAGs are tested and debugged, and a deadline alone makes every such test fail.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet apache-airflow==3.3.2
export AIRFLOW_HOME=$work/home AIRFLOW__CORE__DAGS_FOLDER=$work/dags AIRFLOW__CORE__LOAD_EXAMPLES=false
mkdir -p "$work/dags"
cat > "$work/dags/one.py" <<'PY'
from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, DeadlineAlert, DeadlineReference, SyncCallback

alert = DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, timedelta(hours=1), SyncCallback("builtins.print"), name="one hour")
with DAG("one", schedule=None, deadline=alert) as dag:
    EmptyOperator(task_id="only")
PY
cat > "$work/see.py" <<'PY'
import os
import sys

from airflow.dag_processing.dagbag import DagBag

bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
assert not bag.import_errors, bag.import_errors
dag = bag.dags["one"]
if sys.argv[1] == "without":
    dag.deadline = None
print("state", dag.test().state)
PY
"$work/venv/bin/airflow" db migrate > "$work/migrate.log" 2>&1
"$work/venv/bin/python" "$work/see.py" without 2>&1 | grep "^state success"
if "$work/venv/bin/python" "$work/see.py" with > "$work/with.log" 2>&1; then echo "it ended well with a deadline"; exit 1; fi
grep -m 1 -o "AttributeError: 'dict' object has no attribute 'hex'" "$work/with.log"
