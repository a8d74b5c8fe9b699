"""What tests/test_processes.py runs in one process, and in each of two as `python -m tests.processes FOLDER`."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from components.alignment.lora import add_lora
from components.alignment.methods.flow_dpo import train_dpo
from components.contracts import NO_LABEL
from components.errors import BadInput
from components.evaluation.sample import draw_samples
from components.generator.sampler import Job, Loaded, draw
from components.generator.spec import SamplerSpec
from components.reward.inputs import Clip
from components.reward.pairs import Pairs
from components.reward.score import make_input
from components.reward.train import pair_lengths, pair_loss_fn, parameter_groups, prepare
from components.runtime.processes import CHUNK, from_first, send
from components.runtime.training import fit
from tests.alignment.test_align import LORA, pairs_of
from tests.conftest import BareStage
from tests.generator.small import conditioning, tiny_generator
from tests.reward.test_train import PARAMS
from tests.reward.tiny import tiny_model
from tests.test_training import X, Y, model, settings


class Killed(BaseException):
    """Stands for SIGKILL."""


def exact(net, indices, draw):
    loss = (net(X[indices]) - Y[indices]).pow(2).mean()
    return loss, {"half": loss.detach() / 2}


def plain(folder: Path) -> dict:
    """A loss that is a mean over examples; accumulation and averaging as well."""
    stage, net = BareStage(folder), model()
    rows = fit(stage, net, exact, 64, settings(accumulation=2))
    return {"rows": rows, "weights": net.state_dict()}


def killed(folder: Path) -> dict:
    """The same, killed in step 12 and gone on with."""
    stage, net, calls = BareStage(folder), model(), []

    def mortal(net, indices, draw):
        calls.append(indices)
        if len(calls) > 24:
            raise Killed
        return exact(net, indices, draw)

    try:
        fit(stage, model(), mortal, 64, settings(accumulation=2))
    except Killed:
        PartialState().wait_for_everyone()
    rows = fit(stage, net, exact, 64, settings(accumulation=2))
    return {"rows": rows, "weights": net.state_dict(), "said": stage.said}


def reward(folder: Path) -> dict:
    """VideoReward on pairs of which some have no label, so that processes have unlike numbers of valid entries."""
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 0, 1, NO_LABEL, NO_LABEL], (24, 3))
    net = tiny_model()
    params = PARAMS.model_copy(update={"gradient_checkpointing": True, "vision_learning_rate": 1e-4})
    prepare(net, params)
    clips = [Clip(rng.integers(0, 256, (2, 16, 16 + 8 * (n % 2), 3), np.uint8), 8.0) for n in range(48)]
    inputs = [make_input(net, clip, "a red circle"[: 3 + n % 9]) for n, clip in enumerate(clips)]
    names = [str(n) for n in range(24)]
    pairs = Pairs(Path("pairs"), *[names] * 6, labels, np.zeros((2, 24, 3), np.float32), [2] * 24)
    training = settings(batch_size=4, steps=12, learning_rate=1e-3, log_every=1, ema_decay=None)
    rows = fit(
        BareStage(folder),
        net,
        pair_loss_fn(net, inputs, pairs, params),
        len(labels),
        training,
        groups=parameter_groups(net, params),
        lengths=pair_lengths(inputs),
    )
    net.merge()  # as stage `reward` does: the model must be its own again
    return {"rows": rows, "weights": net.state_dict()}


def align(folder: Path) -> dict:
    """Flow-DPO: both processes fill the reference's table, then train on it. One draw a pair, as each process draws for
    itself which; the pairs' own folder belongs to both."""
    generator = tiny_generator()
    stage = BareStage(folder)
    change = {
        "training": settings(batch_size=4, steps=12, learning_rate=1e-3, log_every=1, ema_decay=None, validate_every=1)
    }
    change |= {"validation": 0.3, "patience": 3, "beta": 50.0}
    params = stage.params.align
    params = params.model_copy(
        update={"draws": 1, "gradient_checkpointing": True, "dpo": params.dpo.model_copy(update=change)}
    )
    stage.params = stage.params.model_copy(update={"align": params})
    transformer = generator.model
    add_lora(transformer, LORA, seed=1)
    transformer.transformer.enable_gradient_checkpointing()
    draw = torch.Generator().manual_seed(4)
    latents, text = torch.randn(12, 4, 3, 4, 4, generator=draw), conditioning(5, 16, 16, draw=draw)
    pairs = pairs_of(folder / "data", latents, text)
    cache = folder.parent / "cache"
    rows, _ = train_dpo(stage, transformer, pairs, stage.params.align.dpo, {"base": "x"}, cache)
    weights = {key: weight for key, weight in transformer.state_dict().items() if "lora" in key}
    return {"rows": rows, "weights": weights, "said": stage.said, "tables": [path.name for path in cache.iterdir()]}


def drawn(folder: Path) -> dict:
    """Five clips in batches of two, each by one of the processes; both end with all."""
    stage = BareStage(folder.parent / "drawn")
    size = {"height": 16, "width": 16, "frames": 5, "steps": 2, "batch_size": 2}
    stage.state()
    latents = draw(
        stage,
        Loaded(tiny_generator()),
        [Job(f"clip{n}", "a red circle", n) for n in range(5)],
        stage.params.sampling.model_copy(update=size),
        folder / "videos",
    )
    return {"latents": torch.cat(latents), "videos": sorted(path.name for path in (folder / "videos").iterdir())}


def crowded(folder: Path) -> dict:
    """Processes that were launched together are workers already."""
    stage = BareStage(folder)
    sample = stage.params.sample.model_copy(update={"workers": 2})
    stage.params = stage.params.model_copy(update={"sample": sample})
    try:
        draw_samples(stage, SamplerSpec("none"), folder)
    except BadInput as error:
        return {"error": str(error)}
    return {"error": None}


def uneven(folder: Path) -> dict:
    try:
        fit(BareStage(folder), model(), exact, 64, settings(batch_size=9))
    except BadInput as error:
        return {"error": str(error)}
    return {"error": None}


def fsdp_for(layers: str | None) -> None:
    """Let the next `fit` of this process share out layers of these classes, or of those that the model names."""
    os.environ.pop("FSDP_TRANSFORMER_CLS_TO_WRAP", None)
    if layers:
        os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = layers
    AcceleratorState._reset_state()
    # accelerate offers FSDP on accelerators only. Told that these processes are such, it runs it on gloo as well.
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def copied(folder: Path) -> dict:
    """Files of each node on all nodes, and those of the first in place of the others'."""
    node, (own, first) = os.environ["GROUP_RANK"], (folder / "own", folder / "first")
    for place, name in ((own, f"of{node}"), (first / "below", f"of{node}"), (first, "same")):
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(node * (CHUNK + 5))
    send(own, [f"of{node}"])
    from_first(first)
    if node == "1":
        (folder / "none").write_text("left by an earlier run")
    from_first(folder / "none")
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {"copies": {str(file.relative_to(folder)): file.read_text().strip("0") for file in files}}


def on_nodes(folder: Path, rank: str) -> None:
    """Two nodes with separate folders."""
    own = folder / f"node{rank}"
    results = {case.__name__: case(own / case.__name__ / "state") for case in (copied, killed, align, drawn)}
    results["align"]["parts"] = [path.name for path in (own / "align").rglob("*.parts")]
    torch.save(results, folder / f"results{rank}.pt")


def main(folder: Path) -> None:
    rank = os.environ["RANK"]
    if "GROUP_RANK" in os.environ:
        on_nodes(folder, rank)
        return
    results = {}
    for case in (plain, killed, reward, align, drawn, crowded, uneven):
        if "ACCELERATE_USE_FSDP" in os.environ and case not in (drawn, crowded):
            fsdp_for(None if case in (reward, align) else "Linear")
        name = case.__name__
        results[name] = case(folder / name if case is killed else folder / f"{name}{rank}")
        results[name]["kind"] = AcceleratorState().distributed_type.value
        results[name]["files"] = sorted(path.name for path in folder.glob(f"{name}*/*"))
    torch.save(results, folder / f"results{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
