"""`reelign export-kfp` and `submit-kfp`: the graph for Kubeflow Pipelines, and a run of it."""

from pathlib import Path
from typing import Annotated

import typer

from components.errors import BadInput

Labels = list[str] | None


def export_kfp(
    out: Annotated[Path, typer.Option(help="The compiled pipeline, for Kubeflow's page or client.")] = Path("pipeline.yaml"),
    gpu_resource: Annotated[
        str, typer.Option(help="The cluster's resource for a GPU: nvidia.com/mig-3g.40gb, amd.com/gpu.")
    ] = "nvidia.com/gpu",
    node: Annotated[Labels, typer.Option(help="KEY=VALUE, a label of the nodes for all stages; may be repeated.")] = None,
    gpu_node: Annotated[
        Labels, typer.Option(help="KEY=VALUE, a label of the nodes for stages with GPUs: pool or type of GPU.")
    ] = None,
    retries: Annotated[int | None, typer.Option(min=0, help="Retries of every stage.", show_default="params.yaml")] = None,
) -> None:
    """Compile the graph for Kubeflow Pipelines, with stages, order, image and resources of Airflow (`make kfp`).

    Kubeflow's cache stays off: DVC decides what has to run again.
    """
    from components.orchestration.kubeflow import Cluster, export, read_labels

    nodes, gpu_nodes = read_labels("--node", node or []), read_labels("--gpu-node", gpu_node or [])
    export(out, Cluster(gpu_resource, nodes, gpu_nodes, retries))
    print(f"{out} written")


def submit_kfp(
    url: Annotated[str, typer.Argument(help="Address of Kubeflow Pipelines; a token is taken from KFP_TOKEN.")],
    pipeline: Annotated[Path, typer.Option(help="What `export-kfp` wrote.")] = Path("pipeline.yaml"),
    profile: Annotated[str | None, typer.Option(help="Of the image's commit.", show_default="its params.yaml")] = None,
    experiment: Annotated[str, typer.Option(help="Kubeflow's experiment; made where it is missing.")] = "reelign",
    name: Annotated[str | None, typer.Option(help="Name of the run.", show_default="its experiment and time")] = None,
    namespace: Annotated[str | None, typer.Option(help="Of a Kubeflow with several users.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until the run ends; exit code 1 where it fails.")] = False,
) -> None:
    """Start a run of a compiled pipeline on Kubeflow Pipelines (`make kfp`)."""
    from components.orchestration.kubeflow_submit import Request, submit

    if not url.startswith(("http://", "https://")):
        raise BadInput("URL", f"'{url}' does not begin with http:// or https://")
    if not pipeline.exists():
        raise BadInput(pipeline, "missing; `reelign export-kfp` writes it")
    code = submit(Request(url, str(pipeline.absolute()), profile, experiment, name, namespace, wait))
    if code:
        raise typer.Exit(code)
