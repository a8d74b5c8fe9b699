#!/usr/bin/env bash
# kfp 2.17.0: Client.wait_for_run_completion does not end for a run that was terminated: its state CANCELED, of the API
# v2beta1, is none of the states that the client takes for an end.
#
# Seen: a server answers GET /apis/v2beta1/runs/ID with state SUCCEEDED: the call returns at once. With CANCELED, which
# kfp_server_api 2.17.3 has among its states of a run, it asks again until its timeout, and raises TimeoutError "Run timeout";
# RunPipelineResult.wait_for_run_completion has no timeout by default. The client's list is succeeded, failed, skipped, error.
#
# Why it matters: a script that waits for a retraining waits for ever once somebody terminates the run.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet kfp==2.17.0 kfp-server-api==2.17.3
cat > "$work/see.py" <<'PY'
import json
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

warnings.simplefilter("ignore")
from kfp_server_api import V2beta1RuntimeState

import kfp

asked = []

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        state = self.path.rpartition("/")[2]
        asked.append(state)
        found = {"multi_user": False} if state == "healthz" else {"run_id": state, "state": state}
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = kfp.Client(host=f"http://127.0.0.1:{server.server_port}")
print("SUCCEEDED:", client.wait_for_run_completion("SUCCEEDED", timeout=3, sleep_duration=1).state)
assert "CANCELED" in V2beta1RuntimeState.allowable_values
try:
    client.wait_for_run_completion("CANCELED", timeout=3, sleep_duration=1)
    raise SystemExit("it ended")
except TimeoutError as error:
    print("CANCELED:", error, "after", asked.count("CANCELED"), "looks")
PY
"$work/venv/bin/python" "$work/see.py"
