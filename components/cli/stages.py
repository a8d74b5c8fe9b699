"""`reelign run-stage` and `reelign run-with`, the commands of Airflow's tasks."""

from typing import Annotated

import typer

Commit = Annotated[
    str | None,
    typer.Option(envvar="REELIGN_COMMIT", help="Hash of a commit.", show_default="HEAD, params.yaml as it is"),
]
ProfileOfCommit = Annotated[
    str | None, typer.Option(envvar="REELIGN_PROFILE", help="Params: a profile of that commit.", show_default="params.yaml")
]


def run_stage(
    name: Annotated[str, typer.Argument(help="A stage of dvc.yaml, e.g. reward or align@dpo.")],
    commit: Commit = None,
    profile: ProfileOfCommit = None,
    force: Annotated[
        bool, typer.Option("--force", envvar="REELIGN_FORCE", help="Run it even if it was run before.")
    ] = False,
    nodes: Annotated[
        int, typer.Option(envvar="REELIGN_NODES", min=1, help="Machines that share the stage, each with this command.")
    ] = 1,
    node_rank: Annotated[
        int | None,
        typer.Option(envvar=["REELIGN_NODE_RANK", "JOB_COMPLETION_INDEX"], help="This machine's number, from 0."),
    ] = None,
    master: Annotated[str | None, typer.Option(envvar="REELIGN_MASTER", help="HOST:PORT of node 0, for all nodes.")] = None,
    patience: Annotated[
        float, typer.Option(envvar="REELIGN_PATIENCE", min=1, help="Seconds to wait for the other nodes.")
    ] = 600,
) -> None:
    """Run one stage as a task of Airflow does: restore its inputs, run it unless any machine did, keep its outputs.

    REELIGN_REMOTE is a DVC remote shared with other machines (s3://bucket/dvc or a folder); without it the local cache is
    all there is. REELIGN_WORK is a folder, e.g. a volume, for work trees, cache and MLflow's store where the checkout is
    read-only. With --nodes, every node restores the inputs and node 0 keeps the outputs; nodes need no common folder.
    Credentials and endpoint are found where boto3 looks (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL_S3, ...).
    """
    from components.pipeline import run_stage as stages
    from components.pipeline.nodes import nodes_of

    if several := nodes_of(name, nodes, node_rank, master, patience):
        from components.pipeline.run_together import run_together

        run_together(several, name, commit, profile, force)
    else:
        stages.run_stage(name, commit, profile, force)


def run_with(
    name: Annotated[str, typer.Argument(metavar="STAGE", help="A stage of dvc.yaml, e.g. reward_bench.")],
    command: Annotated[list[str], typer.Argument(help="A command of reelign with its options, e.g. promote --dry-run.")],
    commit: Commit = None,
    profile: ProfileOfCommit = None,
) -> None:
    """Run a command where a stage runs: in its tree, with what it reads and what it made restored, on any machine.

    So `promote` and `deploy` find pairs and videos (STAGE reward_bench), and `promote --model generator_dpo` the figures of
    the clips (STAGE evaluate, or online@nft for generator_online-nft). Inputs are restored as by run-stage, whose variables
    count here too; the exit code is the command's. Its files are the tree's: others have absolute paths.
    """
    from components.pipeline import run_stage as stages

    raise typer.Exit(stages.run_with(name, command, commit, profile))
