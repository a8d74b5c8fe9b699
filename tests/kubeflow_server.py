"""A server of Kubeflow Pipelines' API v2beta1, as far as a client that starts runs needs it. Runs in kfp's environment.

Bodies are held to the models of kfp_server_api, which are made from the real server's OpenAPI document: an unknown key, a
value of another type and one outside an enumeration are refused. So is a pipeline that is no PipelineSpec. Runs succeed at
the third look, or fail there where their param `profile` is "broken"; one of "lost" was terminated by somebody.

    python -m tests.kubeflow_server TOKEN     prints its port
"""

import json
import re
import sys
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api  # pyright: ignore[reportMissingImports]
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2  # pyright: ignore[reportMissingImports]

PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object, "datetime": str}
API = "/apis/v2beta1"
ENDS = {"broken": ("FAILED", "stage source: exit code 2"), "lost": ("CANCELED", None)}


class Refused(Exception):
    pass


def check(value: Any, kind: str, where: str) -> None:
    """Refused where the JSON `value` is not of the OpenAPI type `kind`."""
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        check_plain(value, list, where)
        for item in value:
            check(item, inner[1], where)
    elif inner := re.fullmatch(r"dict\(str, (.+)\)", kind):
        check_plain(value, dict, where)
        for key, item in value.items():
            check(item, inner[1], f"{where}.{key}")
    elif kind in PLAIN:
        check_plain(value, PLAIN[kind], where)
    elif allowed := getattr(getattr(kfp_server_api, kind), "allowable_values", None):
        if value not in allowed:
            raise Refused(f"{where}: {value}")
    else:
        check_plain(value, dict, where)
        model = getattr(kfp_server_api, kind)
        kinds = {model.attribute_map[name]: one for name, one in model.openapi_types.items()}
        for key, item in value.items():
            if key not in kinds:
                raise Refused(f"unknown field {where}.{key}")
            check(item, kinds[key], f"{where}.{key}")


def check_plain(value: Any, kind: Any, where: str) -> None:
    if not isinstance(value, kind):
        raise Refused(f"{where}: a {type(value).__name__}")


class Handler(BaseHTTPRequestHandler):
    token: str
    experiments: dict[str, dict]
    runs: dict[str, dict]

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if address.path == "/runs":  # the test's own look
            return self.answer(list(self.runs.values()))
        if not self.known():
            return None
        if address.path == f"{API}/healthz":
            return self.answer({"multi_user": False})
        if address.path == f"{API}/experiments":
            wanted = json.loads(parse_qs(address.query)["filter"][0])["predicates"][0]
            assert wanted["operation"] in (1, "EQUALS") and wanted["key"] == "display_name", wanted
            found = [one for one in self.experiments.values() if one["display_name"] == wanted["stringValue"]]
            return self.answer({"experiments": found, "total_size": len(found)} if found else {})
        if address.path.startswith(f"{API}/runs/"):
            run = self.runs[address.path.rpartition("/")[2]]
            run["looks"] += 1
            profile = run["runtime_config"].get("parameters", {}).get("profile")
            if run["looks"] >= 3:
                run["state"], message = ENDS.get(profile, ("SUCCEEDED", None))
                run |= {"error": {"code": 2, "message": message}} if message else {}
            else:
                run["state"] = ("PENDING", "RUNNING")[run["looks"] - 1]
            return self.answer({key: value for key, value in run.items() if key != "looks"})
        return self.refuse(404, f"no such path {address.path}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.known():
            return None
        kind, store = {
            f"{API}/experiments": ("V2beta1Experiment", self.experiments),
            f"{API}/runs": ("V2beta1Run", self.runs),
        }[self.path]
        try:
            check(body, kind, kind)
            if store is self.runs:
                if body["experiment_id"] not in self.experiments:
                    raise Refused("no such experiment")
                spec = body["pipeline_spec"]
                json_format.ParseDict(spec["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
                json_format.ParseDict(spec["platform_spec"], pipeline_spec_pb2.PlatformSpec())
        except (Refused, json_format.ParseError) as error:
            return self.refuse(400, f"Failed to create: {error}")
        key = str(uuid.uuid4())
        made = body | {"experiment_id" if store is self.experiments else "run_id": key}
        store[key] = made | ({"looks": 0} if store is self.runs else {})
        return self.answer(made)

    def known(self) -> bool:
        if self.headers.get("Authorization") != f"Bearer {self.token}":
            self.refuse(401, "Request header error: there is no valid token")
            return False
        return True

    def refuse(self, code: int, why: str) -> None:
        self.answer({"error": why, "code": 3, "message": why, "details": []}, code)

    def answer(self, content: Any, code: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    Handler.token, Handler.experiments, Handler.runs = sys.argv[1], {}, {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
