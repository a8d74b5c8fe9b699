#!/usr/bin/env bash
# DVC 3.67.1: `dvc metrics show`, `dvc metrics diff` and `dvc exp show` leave out lists of a metrics file.
#
# For a metrics file {"accuracy": {"value": 0.71, "ci95": [0.64, 0.78]}} they show accuracy.value alone. There is no warning
# about the list: exit status 0, empty stderr, and --json lacks it too. `metrics diff` ignores a change of the list alone.
# Why it matters: a metric's confidence interval is commonly a pair of numbers. A comparison of experiments with DVC shows
# point estimates only, and a result that lost its significance looks the same. Low and high must be separate scalars.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check dvc==3.67.1
export PATH="$folder/venv/bin:$PATH" GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
mkdir "$folder/repo"
cd "$folder/repo"
git init --quiet .
dvc init --quiet
dvc config core.analytics false
printf 'metrics: [m.json]\n' > dvc.yaml
echo '{"accuracy": {"value": 0.71, "ci95": [0.64, 0.78], "low": 0.64}}' > m.json
git add --all
git commit --quiet --message one
shown=$(dvc metrics show --json 2> said)
echo "show: $shown"
echo "stderr: '$(cat said)'"
echo '{"accuracy": {"value": 0.71, "ci95": [0.40, 0.99], "low": 0.64}}' > m.json
changed=$(dvc metrics diff --json 2>> said)
echo "diff after the list changed: $changed"
python3 - "$shown" "$changed" "$(cat said)" <<'PYTHON'
import json, sys
shown, changed, said = sys.argv[1:]
assert json.loads(shown)[""]["data"]["m.json"]["data"] == {"accuracy": {"value": 0.71, "low": 0.64}}, "the list is shown now"
assert not json.loads(changed).get("diff"), "a changed list is a change now"
assert said == "", said
PYTHON
echo "lists are left out without a warning"
