"""Where a model, a table of scores or a report came from: commit, params, stage runs, and inputs that are checked in.

python examples/read_lineage.py report/index.html
python examples/read_lineage.py video_reward@champion
"""

import sys

from components.registry.lineage import trace
from components.registry.versions import connect


def main(name: str) -> None:
    found = trace(connect(), name)
    print(f"{found['what']}: commit {found['commit']}")
    for run in found["runs"]:
        print(f"  {run['stage']} made {', '.join(run['outputs'])} from {', '.join(run['inputs'])}")
    print(f"checked in: {', '.join(found['checked_in'])}")


if __name__ == "__main__":
    main(*sys.argv[1:])
