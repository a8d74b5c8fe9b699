"""Run a compiled pipeline by kfp's local Docker runner: a container a stage, one after the other. Runs in kfp's environment.

    DOCKER_HOST=... python -m tests.containers.kfp_local PIPELINE.yaml ROOT '{"profile": "smoke"}' < variables.json

The runner passes over what a pipeline says about Kubernetes (user, folders, config map, secret, resources); what a pod would
have of it is given to the containers here. The variables of the config map and the secret come on standard input.
"""

import json
import sys
from pathlib import Path
from typing import Any

from docker.types import Mount
from kfp import components, local  # pyright: ignore[reportMissingImports]
from kfp.local import docker_task_handler  # pyright: ignore[reportMissingImports]

from docker import DockerClient


def run_to_the_end(client: DockerClient, image: str, command: list[str], volumes: dict[str, Any], **settings: Any) -> int:
    """The exit code of a container. kfp 2.17 has it removed at its end, and takes one that is gone before it looks for
    successful; here it stays until its exit code is read."""
    container = client.containers.run(image, command, detach=True, volumes=volumes, **settings)
    try:
        for line in container.logs(stream=True):
            print(line.decode(errors="replace"), end="", flush=True)
        return container.wait()["StatusCode"]
    finally:
        container.remove(force=True, v=True)


if __name__ == "__main__":
    pipeline, root, arguments = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    docker_task_handler.run_docker_container = run_to_the_end
    runner = local.DockerRunner(
        environment=json.load(sys.stdin),
        network_mode="host",
        mounts=[Mount("/work", None, type="volume")],  # of each container its own
        tmpfs={"/tmp": ""},
        shm_size="1g",
        user="10001:10001",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
    )
    local.init(runner=runner, pipeline_root=str(root), raise_on_error=True)
    components.load_component_from_file(str(pipeline))(**arguments)
