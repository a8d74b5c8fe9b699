"""Bring a new VideoReward to a running Triton server without a request lost, and back.

The new version is loaded beside the one that serves, by a configuration that the repository does not hold, and scores a
sample. The repository names it only if these are the scores of the same model offline, and come as fast as the serving
one's. The reward model's configuration is written first, then the record (record.py), then the two ensembles that clients
call, two small files loaded one by one. The old version stays loaded for a rollback, which goes there and nowhere else. A
version that fails, or is interrupted by an error or a signal, leaves no trace; after a kill the next command sees to that.

The repository is the server's own (a copy of stage package's), and names at any time what the server is to serve. A
server that is started again serves what was deployed.
"""

import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import tritonclient.http as triton
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from components.config.params import PackageParams
from components.errors import BadInput
from components.files.locks import sole_writer
from components.pipeline.stage import folder_digest
from components.reward.score import RewardModel, Score, Unscored
from components.runtime.termination import HeldSignals
from components.serving.client import FILE_MODEL, file_tensors, read_score, reason_of
from components.serving.layout import check_layout
from components.serving.management import Management, asking, managing
from components.serving.record import (
    DEPLOYMENT,
    Deployment,
    front_digest,
    front_version,
    is_consistent,
    loaded_by_config,
    model_folder_of,
    read_deployment,
    repair,
    unnamed,
    version_folder,
    versions_there,
    write_config,
    write_deployment,
)
from components.serving.repository import FRONTS, MODEL, backend_config, front_config, write_version
from components.serving.served_log import SHADOW
from components.video.limits import Limits

TOLERANCE = 1e-5  # of normalised scores: float32 in batches of another make-up
KEEP = 3  # versions on disk


class Rejected(Exception):
    """What is served is not what it should be, or would not be; a new version does not serve then."""

    def __str__(self) -> str:  # Triton's words may have several lines
        return " ".join(super().__str__().split())


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Rejected where a server refuses one of the calls."""
    try:
        yield
    except InferenceServerException as error:
        raise Rejected(f"{what}: {error}") from error


def deploy(
    url: str,
    repository: Path,
    model: Path,
    sample: Sequence[tuple[Path, str]],
    params: PackageParams,
    max_latency_ratio: float = 2.0,
    keep: int = KEEP,
) -> int:
    """Deploy the model folder; the number of its version.

    sample: videos and prompts to compare on. max_latency_ratio: most time that a request of the sample may take, over what
    it takes the serving version (medians). keep: verified versions that stay on disk, at least the two that are loaded.
    Rejected if the version does not load, scores otherwise than offline or is too slow, or clients cannot be sent to it.
    BadInput where another deployment is under way; Unreachable where no server answers.
    """
    with working_on(url, repository), managing(url, repository) as server, HeldSignals() as held:
        record, _ = settle(server, repository, params)
        new = versions_there(repository)[-1] + 1
        with ExitStack() as undo:
            undo.callback(withdraw, server, repository, params, record)
            try:
                with held.interruptible():
                    write_version(repository, model, new)
                    server.load(MODEL, as_json(backend_config(repository, params, [record.serving, new])))
                    compare(server.client, model, sample, params, record.serving, new, max_latency_ratio)
            except (InferenceServerException, Rejected, BadInput) as error:
                raise Rejected(f"version {new} of {model}: {error}") from error
            # Verified: from here on files may name it.
            write_config(repository, MODEL, backend_config(repository, params, [record.serving, new]))
            verified = [*record.verified, new]
            write_deployment(repository, Deployment(serving=new, before=record.serving, verified=verified))
            with refusals(f"version {new} of {model}: clients cannot be sent to it"):
                switch(server, repository, params, new)
            undo.pop_all()
        remove_old(repository, keep)
    return new


@contextmanager
def working_on(url: str, repository: Path) -> Iterator[None]:
    """One command at a time; Rejected where the server refuses a call. BadInput, before anything changes, where a version
    that serves, or would by a roll-back, was packaged in an older layout."""
    with sole_writer(repository / DEPLOYMENT), refusals(f"{url} refuses a call"):
        check_layout(repository, read_deployment(repository).loaded)
        yield


def serves_already(url: str, repository: Path, model: Path, params: PackageParams) -> int | None:
    """The version that serves, if it is of this model folder, byte for byte. What a killed command left is mended."""
    with working_on(url, repository), managing(url, repository) as server, HeldSignals():
        record, _ = settle(server, repository, params)
    same = folder_digest(model_folder_of(repository, record.serving)) == folder_digest(model)
    return record.serving if same else None


def verify(url: str, model: Path, sample: Sequence[tuple[Path, str]], params: PackageParams) -> None:
    """Rejected where what clients get is not the offline scores of the model folder."""
    offline = offline_scores(model, sample, params)
    with asking(url) as client:
        for (video, prompt), expected in zip(sample, offline, strict=True):
            check(video, expected, score_with(client, FILE_MODEL, "", video, prompt))


def offline_scores(model: Path, sample: Sequence[tuple[Path, str]], params: PackageParams) -> list[Score | Unscored]:
    """What a server of the model folder should answer."""
    limits = Limits.of(params.limits)
    return RewardModel.load(model, token_budget=params.token_budget, limits=limits).score(sample)


def rollback(url: str, repository: Path, params: PackageParams, model: Path | None = None) -> int | None:
    """Let the version serve again that served when the serving one was deployed; its number. A rollback that was cut short
    is finished. BadInput where there is none: what a rollback has taken away does not come back by another.

    With a model folder only if that is what serves, else None, as where a task is tried again."""
    with working_on(url, repository), HeldSignals():
        record = read_deployment(repository)
        none = BadInput(repository, f"version {record.serving} serves, and none before it is on record: no roll-back")
        if record.before is None and record.rolled_back is None:
            raise none
        with managing(url, repository) as server:
            record, mended = settle(server, repository, params)
            bad = front_digest(repository)
            if record.before is None:
                if model is None and not mended:
                    raise none
                return record.serving if mended else None
            if model is not None and folder_digest(model) != bad:
                return None
            target = record.before
            changed = Deployment(serving=target, before=None, verified=record.verified, rolled_back=bad)
            write_deployment(repository, changed)
            switch(server, repository, params, target)
    return target


def settle(server: Management, repository: Path, params: PackageParams) -> tuple[Deployment, bool]:
    """Bring files and server to the state on record; the record, and whether clients were sent elsewhere.

    A load that a killed command began goes on in the server, and may end after this command looks. The server does one load
    of a model at a time, so another load waits for it.
    """
    record = read_deployment(repository)
    mended = not is_consistent(repository, record)
    if unnamed(repository, record):
        server.load(MODEL)
    repair(repository, record, params)
    if server.served() != {record.serving}:
        mended = True
        switch(server, repository, params, record.serving)
    if server.loaded_versions() != loaded_by_config(repository):
        server.load(MODEL)
    return record, mended


def withdraw(server: Management, repository: Path, params: PackageParams, record: Deployment) -> None:
    """Bring the repository and its server back to an earlier record. Clients are led away from the new version before it
    goes."""
    if read_deployment(repository) != record:
        write_deployment(repository, record)
        switch(server, repository, params, record.serving)
    settle(server, repository, params)


def switch(server: Management, repository: Path, params: PackageParams, version: int) -> None:
    """Send clients to a version that the server has loaded."""
    for name in FRONTS:
        write_config(repository, name, front_config(repository, name, params, version))
        server.load(name)


def remove_old(repository: Path, keep: int) -> None:
    """Remove the oldest verified versions from the disk, but none that is loaded or that clients are sent to."""
    record = read_deployment(repository)
    needed = {*record.loaded, *loaded_by_config(repository)} | {front_version(repository, name) for name in FRONTS}
    spare = [version for version in record.verified if version not in needed]
    gone = spare[: max(0, len(record.verified) - keep)]
    if gone:
        left = [version for version in record.verified if version not in gone]
        write_deployment(repository, record.model_copy(update={"verified": left}))
    for version in gone:
        shutil.rmtree(version_folder(repository, version))


def as_json(config: str) -> str:
    """A configuration as Triton's load call takes it."""
    empty = model_config_pb2.ModelConfig()  # pyright: ignore[reportAttributeAccessIssue]
    return json_format.MessageToJson(text_format.Parse(config, empty), preserving_proto_field_name=True)


def compare(
    client: triton.InferenceServerClient,
    model: Path,
    sample: Sequence[tuple[Path, str]],
    params: PackageParams,
    old: int,
    new: int,
    max_latency_ratio: float,
) -> None:
    """Rejected where the new version's answers are not the offline scores of the model, or come late."""
    offline = offline_scores(model, sample, params)
    seconds: dict[int, list[float]] = {old: [], new: []}
    for (video, prompt), expected in zip(sample, offline, strict=True):
        for version in (old, new):  # in turns, as other requests come and go
            start = time.perf_counter()
            answer = score_with(client, MODEL, str(version), video, prompt)
            seconds[version].append(time.perf_counter() - start)
        check(video, expected, answer)
    middle = {version: statistics.median(values) for version, values in seconds.items()}
    if middle[new] > max_latency_ratio * middle[old]:
        raise Rejected(f"{middle[new]:.3f} s a request, the serving version takes {middle[old]:.3f} s")


def check(video: Path, expected: Score | Unscored, answer: Score | Unscored) -> None:
    """Rejected where the server's answer is not the offline score of the same model."""
    if isinstance(expected, Unscored) or isinstance(answer, Unscored):
        raise Rejected(f"{video}: no score to compare: {getattr(expected, 'reason', getattr(answer, 'reason', ''))}")
    difference = max(abs(answer.normalised[name] - value) for name, value in expected.normalised.items())
    if answer.model_version != expected.model_version or not difference <= TOLERANCE:
        raise Rejected(f"{video}: served {in_words(answer)}, offline {in_words(expected)}")


def in_words(score: Score) -> str:
    values = ", ".join(f"{name} {value:.6f}" for name, value in score.normalised.items())
    return f"{values} by model {score.model_version}"


def score_with(client: triton.InferenceServerClient, model: str, version: str, video: Path, prompt: str) -> Score | Unscored:
    """One answer of what clients ask, or of MODEL's version by its number, whether or not they are sent to it."""
    try:
        tensors = file_tensors(triton, video.read_bytes(), prompt)
        return read_score(client.infer(model, tensors, model_version=version, request_id=SHADOW))
    except InferenceServerException as error:
        return Unscored(reason_of(error, model))


def serving_version(repository: Path) -> int:
    """The version that clients are sent to."""
    return read_deployment(repository).serving


def serving_model(repository: Path) -> Path:
    """The folder of the model that clients are sent to."""
    return model_folder_of(repository, serving_version(repository))
