"""torch's launcher on one of several nodes: `python -m components.runtime.launch --nnodes 2 --node-rank 1 ... -m MODULE`.

It takes torchrun's options, and starts a process for each GPU of the machine, or one. Where one fails, the launcher ends the
others and exits with its exit code; torchrun's is always 1.
"""

import os
import sys

import torch
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def launch(words: list[str]) -> None:
    """Run torchrun with `words`; SystemExit with the exit code of the process that failed first, as in shells."""
    gpus = torch.cuda.device_count()
    if not gpus:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    try:
        run.run(run.parse_args(["--nproc-per-node", str(gpus or 1), *words]))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        raise SystemExit(failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode) from None


if __name__ == "__main__":
    launch(sys.argv[1:])
