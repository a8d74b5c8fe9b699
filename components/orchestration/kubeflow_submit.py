"""`reelign submit-kfp`: a run of a compiled pipeline on a server of Kubeflow Pipelines, by kfp's own client.

As kubeflow.py, this file runs in both environments: `submit` here, and `python -m components.orchestration.kubeflow_submit`
in kfp's, with the request as JSON on its standard input.
"""

import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

from yaml import YAMLError

from components.errors import BadInput, Unreachable, exit_codes
from components.orchestration.kubeflow import PYTHON, interpreter

TOKEN = "KFP_TOKEN"  # a service account's or a person's; never on the command line, where others could read it
POLL = 1.0, 10.0  # seconds between two looks at a run, at first and later
PATIENCE = 300.0  # seconds that a server may be silent while a run is waited for
ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")


@dataclass(frozen=True)
class Request:
    """A run to start: the server, the file of the pipeline, its param, and where Kubeflow lists it."""

    url: str
    pipeline: str
    profile: str | None
    experiment: str
    name: str | None
    namespace: str | None
    wait: bool


def submit(request: Request, python: Path = PYTHON) -> int:
    """Start the run; returns the exit code: 1 where a run that is waited for does not succeed."""
    command = [interpreter(python), "-m", "components.orchestration.kubeflow_submit"]
    return subprocess.run(command, input=json.dumps(asdict(request)), text=True).returncode


def start(request: Request) -> int:
    """Runs in kfp's environment. BadInput where the server refuses, Unreachable where it does not answer."""
    warnings.simplefilter("ignore", FutureWarning)  # the client's word on servers before 2.0
    from google.protobuf.json_format import ParseError
    from kfp.client import Client  # pyright: ignore[reportMissingImports]
    from kfp_server_api import ApiException  # pyright: ignore[reportMissingImports]
    from urllib3.exceptions import HTTPError as NoAnswer  # pyright: ignore[reportMissingImports]

    token = os.environ.get(TOKEN) or None
    greet(request.url, token)
    try:
        client = Client(
            host=request.url,
            existing_token=token,
            namespace=request.namespace or "kubeflow",  # the client's word for none
            ssl_ca_cert=os.environ.get("SSL_CERT_FILE"),
        )
        run = client.create_run_from_pipeline_package(
            request.pipeline,
            arguments={"profile": request.profile} if request.profile else {},
            run_name=request.name or f"{request.experiment} {datetime.now():%Y-%m-%d %H:%M}",
            experiment_name=request.experiment,
            namespace=request.namespace,
            enable_caching=False,
        )
        print(f"run {run.run_id}", flush=True)
        return wait_for(client, run.run_id) if request.wait else 0
    except ApiException as error:
        raise BadInput(request.url, f"answered {error.status} {error.reason}: {reason(error.body)}") from error
    except (ParseError, YAMLError) as error:
        raise BadInput(request.pipeline, f"no compiled pipeline: {str(error).splitlines()[0]}") from error
    except NoAnswer as error:
        raise Unreachable(request.url, str(error)) from error


def greet(url: str, token: str | None) -> None:
    """Ask for the server's health: kfp's client would ask five times, and print what it gets each time."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urlopen(HttpRequest(f"{url.rstrip('/')}/apis/v2beta1/healthz", headers=headers), timeout=30) as answer:
            json.load(answer)
    except HTTPError as error:
        raise BadInput(url, f"answered {error.code} {error.reason}: {reason(error.read())}") from error
    except json.JSONDecodeError as error:
        raise BadInput(url, "the answer is no JSON; is this the address of Kubeflow Pipelines?") from error
    except OSError as error:
        raise Unreachable(url, str(getattr(error, "reason", error))) from error


def wait_for(client: Any, run: str) -> int:
    """0 where the run succeeds; else 1, with its state and the error that the server gives. A server that is silent for a
    while is waited for, as the run goes on without it."""
    from urllib3.exceptions import HTTPError as NoAnswer  # pyright: ignore[reportMissingImports]

    begun = answered = time.monotonic()
    while True:
        try:
            found = client.get_run(run)
            answered = time.monotonic()
            if found.state in ENDED:
                break
        except NoAnswer:
            if time.monotonic() - answered > PATIENCE:
                raise
        time.sleep(min(POLL[0] + (time.monotonic() - begun) / 10, POLL[1]))
    why = f": {found.error.message}" if found.error and found.error.message else ""
    print(f"run {run} {found.state}{why}")
    return 0 if found.state == "SUCCEEDED" else 1


def reason(body: str | bytes | None) -> str:
    """The server's own message, of the JSON that it answers with."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    try:
        answer = json.loads(text)
    except json.JSONDecodeError:
        return text.strip()[:200]
    return str(answer.get("error") or answer.get("message") or text) if isinstance(answer, dict) else text


if __name__ == "__main__":
    with exit_codes():
        sys.exit(start(Request(**json.load(sys.stdin))))
