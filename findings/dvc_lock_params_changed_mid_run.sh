#!/usr/bin/env bash
# dvc 3.67.1: params.yaml changes while a stage runs. dvc.lock then pairs the new value with the output of the old value, and
# `dvc status` reports it as up to date: DVC reads params at the end of the stage, not at its start.
#
# Why it matters: after an edit of lr during a training, the lock, `dvc exp show` and the run cache permanently pair the new
# lr with this model. `dvc repro` never trains with it, and `dvc push --run-cache` spreads the wrong pairing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet dvc==3.67.1
export PATH="$folder/venv/bin:$PATH"

mkdir project
cd project
dvc init --no-scm --quiet
dvc config core.analytics false
echo "lr: 1" > params.yaml
cat > dvc.yaml <<'YAML'
stages:
  train:
    cmd: cp params.yaml model.txt && touch begun && while [ ! -e go ]; do sleep 0.1; done
    params: [lr]
    outs: [model.txt]
YAML

dvc repro --quiet &
until [ -e begun ]; do sleep 0.1; done
echo "lr: 2" > params.yaml
touch go
wait %1

echo "the model was made with:  $(cat model.txt)"
echo "dvc.lock says:            $(grep --after-context 1 'params.yaml:' dvc.lock | tail -1 | xargs)"
echo "dvc status says:          $(dvc status)"
grep -qx "lr: 1" model.txt && grep -q "^ *lr: 2$" dvc.lock && dvc status | grep -q "up to date"
