#!/usr/bin/env bash
# Airflow 3.3.2, providers.standard's BashOperator: whether a task's bash reads ~/.bashrc depends on SHLVL of the scheduler.
#
# Seen: LocalExecutor, one BashOperator that prints a variable which ~/.bashrc alone sets. Standard input of the task's bash is a
# socket, as the supervisor makes it. Scheduler without SHLVL (so systemd, cron and containers start it): the variable is set.
# The same scheduler with SHLVL=1 (started in a shell): it is not. The cause is bash: with a network connection as standard
# input and SHLVL below 2 it takes itself for the child of a remote shell daemon and runs ~/.bashrc, even for `bash -c`.
#
# Why it matters: `env={"PATH": ...}` of a task is changed by what ~/.bashrc puts before it (pyenv, conda), so a task may run
# another Python under systemd than in the terminal where it was tried.
set -euo pipefail
work=$(mktemp -d); started=
end() { [ -z "$started" ] || kill -- -"$started" 2>/dev/null || true; sleep 2; rm -rf "$work"; }
trap end EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet apache-airflow==3.3.2 apache-airflow-providers-standard==1.21.0
bash --version | head -n 1
mkdir -p "$work/dags" "$work/home"
echo 'export MARK=bashrc' > "$work/home/.bashrc"
cat > "$work/dags/one.py" <<'PY'
import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

see = 'test -S /dev/stdin && echo "stdin socket, mark ${MARK:-none}"'
with DAG("one", schedule="@once", start_date=datetime.datetime(2026, 1, 1), is_paused_upon_creation=False):
    BashOperator(task_id="see", bash_command=see)
PY
free() { "$work/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
# $1: a name; the rest: settings of the scheduler's environment.
seen() {
  local name=$1 port found; shift; port=$(free)
  setsid env -i HOME="$work/home" PATH="$work/venv/bin:/usr/bin:/bin" LANG=C.UTF-8 AIRFLOW_HOME="$work/$name" \
    AIRFLOW__CORE__DAGS_FOLDER="$work/dags" AIRFLOW__CORE__LOAD_EXAMPLES=false AIRFLOW__API__PORT="$port" \
    AIRFLOW__API__BASE_URL="http://127.0.0.1:$port" AIRFLOW__API__HOST=127.0.0.1 \
    AIRFLOW__CORE__EXECUTION_API_SERVER_URL="http://127.0.0.1:$port/execution/" "$@" \
    airflow standalone > "$work/$name.log" 2>&1 &
  started=$!
  for _ in $(seq 150); do
    sleep 2
    found=$(grep -rhosE "stdin socket, mark [a-z]+" "$work/$name/logs/dag_id=one" | head -n 1) || true
    [ -n "$found" ] && break
  done
  kill -- -"$started"; wait "$started" 2>/dev/null || true; started=
  echo "$name: $found"
}
seen without_shlvl | tee "$work/first"
seen shlvl_1 SHLVL=1 | tee "$work/second"
grep -qx "without_shlvl: stdin socket, mark bashrc" "$work/first"
grep -qx "shlvl_1: stdin socket, mark none" "$work/second"
