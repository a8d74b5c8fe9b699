"""Bring a new VideoReward to a running Triton server without a request lost, and back.

The new version is loaded beside the one that serves and asked, by its number, for scores of a sample. Only if they are the
scores of the same model offline, and come as fast as the serving version's, do the two ensembles that clients ask change to
it: two small files, loaded one by one. The old version stays loaded for a rollback. A version that fails leaves no trace.

The repository is the server's own (a copy of stage package's), and says at any time what the server is to serve: one that is
started again serves what was deployed.
"""

import re
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from components.errors import BadInput, Unreachable
from components.files import whole_file
from components.params import PackageParams
from components.reward.score import RewardModel, Score, Unscored
from components.serving.client import FILE_MODEL, file_tensors, read_score, reason_of, split_url
from components.serving.repository import FRONTS, MODEL, backend_config, front_config, write_version
from components.serving.served_log import SHADOW
from components.stage import folder_digest
from components.video.limits import Limits

LOAD_SECONDS = 600.0
TOLERANCE = 1e-5  # of normalised scores: float32 in batches of another make-up


class Rejected(Exception):
    """What is served is not what it should be, or would not be; a new version does not serve then."""


def deploy(
    url: str, repository: Path, model: Path, sample: Sequence[tuple[Path, str]], params: PackageParams, slowest: float = 2.0
) -> int:
    """Deploy the model folder; the number of its version.

    sample: videos and prompts to compare on. slowest: most time that a request of the sample may take, over what it takes
    the serving version (medians). Rejected if the version does not load, scores otherwise than offline or is too slow.
    """
    old, versions = serving_version(repository), loaded_by_config(repository)
    new = max(int(path.name) for path in (repository / MODEL).iterdir() if path.name.isdigit()) + 1
    with asking(url) as client:
        try:
            write_version(repository, model, new)
            load(client, repository, MODEL, backend_config(repository, params, [old, new]))
            compare(client, model, sample, params, old, new, slowest)
        except (InferenceServerException, Rejected, BadInput) as error:
            withdraw(client, repository, params, versions, new)
            raise Rejected(f"version {new} of {model}: {error}") from error
        switch(client, repository, params, new)
    return new


def serves_already(url: str, repository: Path, model: Path, params: PackageParams) -> int | None:
    """The version that serves, if it is of this model folder, byte for byte. A switch that was cut short is finished."""
    digest, version = folder_digest(model), serving_version(repository)
    if folder_digest(serving_model(repository)) != digest:
        return None
    with asking(url) as client:
        if served(client) != {digest}:
            switch(client, repository, params, version)
    return version


def verify(url: str, model: Path, sample: Sequence[tuple[Path, str]], params: PackageParams) -> None:
    """Rejected where what clients get is not the offline scores of the model folder."""
    offline = offline_scores(model, sample, params)
    with asking(url) as client:
        for (video, prompt), expected in zip(sample, offline, strict=True):
            check(video, expected, score_with(client, FILE_MODEL, "", video, prompt))


def offline_scores(model: Path, sample: Sequence[tuple[Path, str]], params: PackageParams) -> list[Score | Unscored]:
    """What a server of the model folder should answer."""
    limits = Limits(**params.limits.model_dump())
    return RewardModel.load(model, token_budget=params.token_budget, limits=limits).score(sample)


def rollback(url: str, repository: Path, params: PackageParams, model: Path | None = None) -> int | None:
    """Let the version serve again that served before the one that serves; its number. A switch that was cut short is
    finished. BadInput where no earlier version is loaded: what a rollback has taken away does not come back by another.

    With a model folder only if that is what serves, else None, as where a task is tried again."""
    serving, versions = serving_version(repository), loaded_by_config(repository)
    earlier = [version for version in versions if version < serving]  # numbers rise with each deployment
    why = f"version {serving} serves, and none that served before it is loaded: nothing to roll back to"
    if len(versions) == 1:
        raise BadInput(repository, why)
    with asking(url) as client:
        digests = served(client)
        if model is not None and folder_digest(model) not in digests:
            return None
        if not earlier and len(digests) == 1:
            raise BadInput(repository, why)
        target = earlier[-1] if earlier else serving
        switch(client, repository, params, target)
    return target


def switch(client: triton.InferenceServerClient, repository: Path, params: PackageParams, version: int) -> None:
    for name in FRONTS:
        load(client, repository, name, front_config(repository, name, params, version))


def withdraw(
    client: triton.InferenceServerClient, repository: Path, params: PackageParams, keep: list[int], new: int
) -> None:
    """Leave the server and its repository with the versions that they had."""
    load(client, repository, MODEL, backend_config(repository, params, keep))
    shutil.rmtree(repository / MODEL / str(new))


def load(client: triton.InferenceServerClient, repository: Path, name: str, config: str) -> None:
    """Change a model's configuration in the repository, whole or not at all, and let the server follow."""
    with whole_file(repository / name / "config.pbtxt") as partial:
        partial.write_text(config)
    client.load_model(name)


def compare(
    client: triton.InferenceServerClient,
    model: Path,
    sample: Sequence[tuple[Path, str]],
    params: PackageParams,
    old: int,
    new: int,
    slowest: float,
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
    if middle[new] > slowest * middle[old]:
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


def served(client: triton.InferenceServerClient) -> set[str]:
    """Digests of the models that clients are sent to: one, unless a switch was cut short."""
    configs = (client.get_model_config(name) for name in FRONTS)
    return {config["parameters"]["model_version"]["string_value"] for config in configs}


def serving_version(repository: Path) -> int:
    """The version that clients are sent to."""
    (front, *_) = FRONTS
    return int(in_config(repository / front / "config.pbtxt", r"model_version: (\d+)"))


def serving_model(repository: Path) -> Path:
    """The folder of the model that clients are sent to."""
    return repository / MODEL / str(serving_version(repository)) / "video_reward"


def loaded_by_config(repository: Path) -> list[int]:
    """The versions that the server keeps loaded, the one that serves and the one before."""
    found = in_config(repository / MODEL / "config.pbtxt", r"versions: \[(\d[\d, ]*)\]")
    return [int(version) for version in found.split(",")]


def in_config(file: Path, pattern: str) -> str:
    """What a model's configuration has there; BadInput where it has none: it is damaged, and a new repository is needed."""
    found = re.search(pattern, file.read_text(errors="replace"))
    if found is None:
        why = "damaged, it names no version; stop the server, remove the repository and start it with `reelign serve --live`"
        raise BadInput(file, why)
    return found[1]


@contextmanager
def asking(url: str) -> Iterator[triton.InferenceServerClient]:
    """A client of the server; Unreachable where none answers."""
    protocol, address = split_url(url)
    if protocol != "http":
        raise BadInput(url, "deploying goes over HTTP: http://host:port")
    with triton.InferenceServerClient(address, network_timeout=LOAD_SECONDS) as client:
        try:
            client.is_server_live()
        except OSError as error:
            raise Unreachable(url, f"no Triton server answers: {error}") from error
        yield client
