"""A one-node Kubernetes cluster: the fixture beside the checkout (../shared/kubernetes, see its README)."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.containers.engine import REPOSITORY

PROGRAM = REPOSITORY.parent / "shared/kubernetes/cluster"
NODE, ADDRESS = "kube-test", "10.89.76.1"  # of the machine, seen from pods


class Cluster:
    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="reelign-kubernetes-")) / "state"
        self.kubeconfig = self.folder / "kubeconfig"

    def __call__(self, *arguments: str, **kwargs) -> None:
        environment = os.environ | {"KUBE_TEST_DIR": str(self.folder), "KUBE_TEST_TIMEOUT": "300"}
        subprocess.run([PROGRAM, *arguments], env=environment, check=True, **kwargs)

    def start(self) -> None:
        self("install")
        self("up")

    def stop(self) -> None:
        self("down")
        shutil.rmtree(self.folder.parent)

    def load(self, engine, image: str) -> None:
        """Make an image of the engine known to the node."""
        with subprocess.Popen([engine.client, "save", image], env=engine.environment, stdout=subprocess.PIPE) as save:
            self("load", "-", stdin=save.stdout)
