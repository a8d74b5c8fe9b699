#!/usr/bin/env bash
# Airflow 3.3.2, LocalExecutor: when a scheduler and its workers are killed and a new scheduler starts, the lost task stays
# `running` until the check for orphans, not until `task_instance_heartbeat_timeout`.
#
# Seen: a task that sleeps, SIGKILL of the scheduler's processes while it runs, a new scheduler seconds later. With a heartbeat
# timeout of 20 s (looked at every 10 s) and the default interval of the check (300 s) the task is still in its first try,
# `running`, 150 s later, though its last heartbeat is older than 100 s. With orphaned_tasks_check_interval=20 it is in its
# second try within 150 s. The first check runs at the start of the new scheduler, when the old one still counts as alive.
#
# Why it matters: the setting whose name promises to find tasks without a sign of life does not find those of a dead scheduler.
set -euo pipefail
work=$(mktemp -d); groups=()
end() { for group in "${groups[@]}"; do kill -9 -- "-$group" 2>/dev/null || true; done; sleep 1; rm -rf "$work"; }
trap end EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet apache-airflow==3.3.2 apache-airflow-providers-standard==1.21.0
mkdir -p "$work/dags"
cat > "$work/dags/one.py" <<'PY'
import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("one", schedule="@once", start_date=datetime.datetime(2026, 1, 1), is_paused_upon_creation=False):
    BashOperator(task_id="sleeps", bash_command="sleep 613.25", retries=3, retry_delay=datetime.timedelta(seconds=1))
PY
start() { setsid "$work/venv/bin/airflow" "$@" >> "$AIRFLOW_HOME/$1.log" 2>&1 & last=$!; groups+=("$last"); }
row() {
  "$work/venv/bin/python" - "$AIRFLOW_HOME/airflow.db" <<'PY'
import sqlite3, sys
base = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, timeout=30)
found = base.execute("select state, try_number from task_instance where task_id = 'sleeps'").fetchone()
print(*(found or ("none", 0)))
PY
}
until_row() { for _ in $(seq "$2"); do [ "$(row)" = "$1" ] && return 0; sleep 2; done; return 1; }
# $1: seconds between checks for orphans. Prints state and try 150 s after the kill, or as soon as it is the second try.
seen() {
  local port; port=$("$work/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  export AIRFLOW_HOME=$work/home$1 AIRFLOW__CORE__DAGS_FOLDER=$work/dags AIRFLOW__CORE__LOAD_EXAMPLES=false
  export AIRFLOW__API__HOST=127.0.0.1 AIRFLOW__API__PORT=$port AIRFLOW__API__WORKERS=1 AIRFLOW__CORE__PARALLELISM=2
  export AIRFLOW__CORE__EXECUTION_API_SERVER_URL=http://127.0.0.1:$port/execution/
  export AIRFLOW__API_AUTH__JWT_SECRET=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  export AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT=20 AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL=$1
  mkdir -p "$AIRFLOW_HOME"
  "$work/venv/bin/airflow" db migrate > "$AIRFLOW_HOME/migrate.log" 2>&1
  start api-server; start dag-processor; start scheduler --skip-serve-logs
  until_row "running 1" 90
  sleep 10
  pkill -9 -s "$last" || true
  kill -9 -- "-$last" 2>/dev/null || true
  pkill -9 -f "^sleep 613\.25$" || true
  sleep 3
  start scheduler --skip-serve-logs
  until_row "running 2" 75 || true
  row
  for group in "${groups[@]}"; do kill -9 -- "-$group" 2>/dev/null || true; pkill -9 -s "$group" || true; done
  pkill -9 -f "^sleep 613\.25$" || true
  groups=()
}
[ "$(seen 300 | tee /dev/stderr)" = "running 1" ]
[ "$(seen 20 | tee /dev/stderr)" = "running 2" ]
echo "seen"
