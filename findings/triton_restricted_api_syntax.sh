#!/usr/bin/env bash
# tritonserver 2.51.0 (nvidia-pytriton 0.7.0): the help text of `--http-restricted-api` and `--grpc-restricted-protocol` shows
# APIS,KEY=VALUE, which the server refuses as it starts; it accepts APIS:KEY=VALUE. A restricted call without the header is
# HTTP 403, and over gRPC status UNAVAILABLE, the code of a server that is away.
# Why it matters: an operator who follows --help gets no server. A gRPC client that retries UNAVAILABLE, as most retry policies
# do, repeats a forbidden call until its deadline and reports an outage.
set -euo pipefail
folder=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill "$server"; wait "$server" || true; fi; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --no-deps --target triton nvidia-pytriton==0.7.0
venv/bin/pip install --quiet tritonclient==2.51.0 grpcio==1.67.1 protobuf==5.29.5 numpy==1.26.4 python-rapidjson==1.20 packaging==24.2
bin=triton/pytriton/tritonserver
chmod +x "$bin/bin/tritonserver"
export LD_LIBRARY_PATH=$PWD/$bin/external_libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
mkdir models

free() { venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
http=$(free); grpc=$(free)
command=(
  "$bin/bin/tritonserver" --model-repository="$PWD/models" --backend-directory="$PWD/$bin/backends" --model-control-mode=explicit
  --http-address=127.0.0.1 --http-port="$http" --grpc-address=127.0.0.1 --grpc-port="$grpc" --allow-metrics=false
)

"$bin/bin/tritonserver" --help > help.txt 2>&1 || true
grep -F -- '--http-restricted-api=<apis>,<key>=<value>' help.txt

code=0
timeout 30 "${command[@]}" --http-restricted-api=model-repository,key=secret > comma.log 2>&1 || code=$?
if [ "$code" = 0 ] || [ "$code" = 124 ]; then
  echo "the form of --help was accepted"; exit 1
fi
echo "the form of --help: $(head -n 1 comma.log)"

"${command[@]}" --http-restricted-api=model-repository:key=secret --grpc-restricted-protocol=model-repository:key=secret > colon.log 2>&1 &
server=$!
venv/bin/python - "$http" "$grpc" <<'PYTHON'
import sys
import time
import urllib.error
import urllib.request

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

http, grpc = sys.argv[1:]
for _ in range(300):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{http}/v2/health/live")
        break
    except OSError:
        time.sleep(0.1)


def index(headers):
    request = urllib.request.Request(f"http://127.0.0.1:{http}/v2/repository/index", b"", headers, method="POST")
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code


assert index({}) == 403, index({})
assert index({"key": "secret"}) == 200
client = triton.InferenceServerClient(f"127.0.0.1:{grpc}")
try:
    client.get_model_repository_index()
    raise SystemExit("gRPC answered without the header")
except InferenceServerException as error:
    print("HTTP without the header: 403; gRPC:", error.status(), error.message())
    assert error.status() == "StatusCode.UNAVAILABLE", error.status()
client.get_model_repository_index(headers={"triton-grpc-protocol-key": "secret"})
PYTHON
