"""Score videos on a Triton server, with the answers that RewardModel.score would give.

    async with RewardClient("grpc://127.0.0.1:8001") as client:
        score = await client.score("clip.mp4", "a red circle moving up")

A video goes to the server as the bytes of its file, or as all of its frames with their rate. In both cases the server
applies the frame plan of its own model: a client cannot choose other frames than the model was trained with.
"""

import asyncio
import importlib
import importlib.util
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import aiohttp
import numpy as np
from tritonclient.utils import InferenceServerException

from components.errors import BadInput, Unreachable
from components.reward.scores import Score, Unscored

if TYPE_CHECKING:
    from components.reward.score import Clip, Video
    from components.video.decode import VideoInfo

# Decoding is imported where frames are sent alone: `pip install reelign[client]` has no decoder and no torch.
FRAMES_MODEL, FILE_MODEL = "video_reward", "video_reward_file"
CHECK_SECONDS = 20.0  # that a server may take to say what it serves
READY_SECONDS = 4.0  # the same, of a probe
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds between attempts, doubled each time
# Triton was not reached or has no room just now; the request itself was not judged.
UNAVAILABLE = {"502", "503", "504", "StatusCode.UNAVAILABLE"}
# Nor was it where the backend's process is gone, in Triton's words, or the model is being loaded in its place.
DEAD_BACKEND, LOADING, FULL = "is not healthy", "has no available versions", "maximum queue size"
MOST_BYTES = 2**31 - 2**20  # of frames in a request: gRPC's limit of 2 GiB, less room for the prompt
# Without these a lost connection is tried again after a wait that grows to two minutes, and messages end at 4 MiB.
GRPC_CHANNEL = [
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.primary_user_agent", "reelign"),
]


class Unanswered(Unscored):
    """No score because no server answered in time, not because of the video."""


class Unsendable(Exception):
    """A video that no request can carry. The text is the reason why there is no score."""


@dataclass(frozen=True)
class ClientOptions:
    """How requests are sent to a server.

    send: what of a video file, its bytes or its frames (a Clip always goes as frames). in_flight: requests under way at a
    time, which the server scores together; as many videos are in memory. deadline: seconds for one video, all attempts
    together. attempts: how often a request goes out that the server was not there for; one that it refused goes out once.
    plan: the frame plan that the server's model must have, as scores are stamped with (`8frames 64-1024px/8`).
    """

    send: Literal["file", "frames"] = "file"
    in_flight: int = 8
    deadline: float = 300.0
    attempts: int = 10
    plan: str | None = None


class RewardClient:
    """A server's VideoReward, to be used in `async with`. Any number of `score` may be awaited at once: more than
    `in_flight` wait here, before their videos are read.

    Entering raises BadInput for an address that is none and a model that has another plan, Unreachable where no server
    answers or has no such model.
    """

    def __init__(self, url: str, options: ClientOptions | None = None):
        self.url = url
        self.options = options or ClientOptions()
        self.protocol, self.address = split_url(url)
        if self.options.send == "frames" and importlib.util.find_spec("av") is None:
            raise BadInput(url, "this installation has no decoder: send files, or install reelign[ml]", key="--send")
        self.api: ModuleType = importlib.import_module(f"tritonclient.{self.protocol}")
        self.lost = False  # the server did not answer the last request at all: the next ones are not worth much waiting

    async def __aenter__(self) -> "RewardClient":
        aio = importlib.import_module(f"tritonclient.{self.protocol}.aio")
        self.slots = asyncio.Semaphore(self.options.in_flight)
        if self.protocol == "grpc":
            self.client = aio.InferenceServerClient(self.address, channel_args=GRPC_CHANNEL)
        else:
            # Time is limited where it is spent; the client's own limit would hold for all attempts alike.
            self.client = aio.InferenceServerClient(self.address, conn_limit=self.options.in_flight, conn_timeout=None)
        try:
            await self._check()
        except BaseException:
            await self.client.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def facts(self) -> dict[str, str]:
        """The server's record of the model that scores now: model_version, frame_plan."""
        options = {"as_json": True} if self.protocol == "grpc" else {}
        config = await self.client.get_model_config(FILE_MODEL, **options)
        parameters = config.get("config", config).get("parameters", {})
        return {name: value["string_value"] for name, value in parameters.items()}

    async def ready(self) -> bool:
        """Whether both models are ready now; False where no server answers within seconds."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                return all([await self.client.is_model_ready(model) for model in (FRAMES_MODEL, FILE_MODEL)])
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, InferenceServerException):
            return False

    async def _check(self) -> None:
        what = "server"
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                for what in (f"model {FRAMES_MODEL}", f"model {FILE_MODEL}"):
                    while not await self.client.is_model_ready(what.removeprefix("model ")):
                        await asyncio.sleep(FIRST_WAIT)  # it may be being loaded
                facts = await self.facts()
        except TimeoutError as error:
            raise Unreachable(self.url, f"no Triton {what} was ready within {CHECK_SECONDS:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError, InferenceServerException) as error:
            raise Unreachable(self.url, f"no Triton server answers: {error}") from error
        if self.options.plan not in (None, facts["frame_plan"]):
            raise BadInput(self.url, self._other_plan(facts["frame_plan"]))

    def _other_plan(self, plan: str) -> str:
        return f"its model has the frame plan {plan}, not {self.options.plan}"

    async def score_many(self, items: "Iterable[tuple[Video | bytes, str]]") -> list[Score | Unscored]:
        """A score or a reason for each (video, prompt), in order. `items` is read no faster than they are scored."""
        results: dict[int, Score | Unscored] = {}
        numbered = enumerate(items)

        async def work() -> None:
            for place, (video, prompt) in numbered:
                results[place] = await self.score(video, prompt)

        async with asyncio.TaskGroup() as workers:
            for _ in range(self.options.in_flight):
                workers.create_task(work())
        return [results[place] for place in range(len(results))]

    async def score(self, video: "Video | bytes", prompt: str) -> Score | Unscored:
        """The score of a video file, of the bytes of one, or of a clip; or the reason why there is none."""
        async with self.slots:
            try:
                model, tensors = await self._request(video, prompt)
            except Unsendable as error:
                return Unscored(str(error))
            except OSError as error:
                return Unscored(f"{video}: {error.strerror}")
            except UnicodeEncodeError as error:
                return Unscored(f"the prompt is no text: {error.reason}")
            except InferenceServerException as error:  # of the client, before anything is sent
                return Unscored(error.message())
            return await self._ask(model, tensors)

    async def _request(self, video: "Video | bytes", prompt: str) -> tuple[str, list[Any]]:
        if isinstance(video, bytes):
            return FILE_MODEL, file_tensors(self.api, video, prompt)
        if not isinstance(video, str | Path):
            return FRAMES_MODEL, frame_tensors(self.api, video, prompt)
        if not os.path.isfile(video):
            raise Unsendable(f"{video}: no such file")
        if self.options.send == "file":
            if (size := os.path.getsize(video)) > MOST_BYTES:
                most = MOST_BYTES / 2**30
                raise Unsendable(f"{video}: a file of {size / 2**30:.1f} GiB, and a request carries {most:g}")
            return FILE_MODEL, file_tensors(self.api, await asyncio.to_thread(Path(video).read_bytes), prompt)
        return FRAMES_MODEL, frame_tensors(self.api, await asyncio.to_thread(whole_clip, video), prompt)

    async def _ask(self, model: str, tensors: list[Any]) -> Score | Unscored:
        """Send a request and wait for its answer. Scoring changes nothing on the server, so a request may go out again;
        one that the server has judged does not, as the judgement would be the same."""
        until = asyncio.get_running_loop().time() + self.options.deadline
        attempts = 1 if self.lost else self.options.attempts
        for attempt in range(attempts):
            try:
                async with asyncio.timeout_at(until):
                    if attempt:
                        # Half of it by lot, so that many clients do not all come back at the same moment.
                        wait = min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT)
                        await asyncio.sleep(wait * random.uniform(0.5, 1))
                    score = read_score(await self.client.infer(model, tensors))
            except TimeoutError:
                return Unanswered(f"no answer from the server within {self.options.deadline:g} s")
            except InferenceServerException as error:
                if not may_go_again(error):
                    self.lost = False
                    return Unscored(reason_of(error, model))
                why, answered = reason_of(error, model), is_answer(error)
            except (aiohttp.ClientError, OSError) as error:
                why, answered = f"{type(error).__name__}: {error}", False
            else:
                self.lost = False
                if self.options.plan not in (None, score.frame_plan):  # deployed since its plan was read
                    return Unscored(self._other_plan(score.frame_plan))
                return score
        self.lost = not answered
        return Unanswered(f"no answer from the server in {attempts} attempt(s): {why}")


def score_remote(url: str, items: "Sequence[tuple[Video | bytes, str]]", **options: Any) -> list[Score | Unscored]:
    """RewardClient.score_many for callers without an event loop; `options` are the fields of ClientOptions."""

    async def run() -> list[Score | Unscored]:
        async with RewardClient(url, ClientOptions(**options)) as client:
            return await client.score_many(items)

    return asyncio.run(run())


def split_url(url: str) -> tuple[Literal["http", "grpc"], str]:
    """("http" or "grpc", host:port) of http://host:port, grpc://host:port or a bare host:port, which is HTTP. BadInput for
    any other address."""
    protocol, separator, address = url.rpartition("://")
    if not separator:
        protocol = "http"
    address = address.rstrip("/")
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:  # no number, above 65535, or half of an IPv6 address
        host, port = None, None
    if protocol not in ("http", "grpc") or not host or port == 0 or parts.netloc.endswith(":"):
        raise BadInput(url, "a Triton server is named http://host:port or grpc://host:port, the port from 1 to 65535")
    return protocol, address


def whole_clip(video: str | Path) -> "Clip":
    """All frames of a file, decoded here into the one array that holds them. Unsendable for a file that cannot be read, or
    that a request cannot carry: that is found before its frames take the memory."""
    from components.reward.inputs import Clip
    from components.video.container import VideoError
    from components.video.decode import read_chosen

    rate = 0.0

    def all_frames(info: "VideoInfo") -> range:
        nonlocal rate
        size = info.frames * info.height * info.width * 3
        if size > MOST_BYTES:
            raise VideoError(video, too_large(size))
        rate = info.fps
        return range(info.frames)

    try:
        frames = read_chosen(video, all_frames)
    except VideoError as error:
        raise Unsendable(str(error)) from error
    return Clip(frames, rate)


def too_large(size: int) -> str:
    return f"its frames take {size / 2**30:.1f} GiB, and a request carries {MOST_BYTES / 2**30:g}; send the file"


def frame_tensors(api: ModuleType, clip: "Clip", prompt: str) -> list[Any]:
    """The inputs of video_reward. InferenceServerException if the frames are not uint8, or more than a request carries.
    api: tritonclient.http or .grpc."""
    if clip.frames.nbytes > MOST_BYTES:
        raise InferenceServerException(too_large(clip.frames.nbytes))
    rate = np.array([clip.fps], np.float64)
    return [
        tensor(api, "frames", "UINT8", clip.frames),
        tensor(api, "prompt", "UINT8", text(prompt)),
        tensor(api, "fps", "FP64", rate),
    ]


def file_tensors(api: ModuleType, video: bytes, prompt: str) -> list[Any]:
    """The inputs of video_reward_file."""
    return [
        tensor(api, "video", "UINT8", np.frombuffer(video, np.uint8)),
        tensor(api, "prompt", "UINT8", text(prompt)),
    ]


def text(value: str) -> np.ndarray:
    return np.frombuffer(value.encode(), np.uint8)


def tensor(api: ModuleType, name: str, kind: str, value: np.ndarray) -> Any:
    """One input, with the batch dimension before it."""
    made = api.InferInput(name, [1, *value.shape], kind)
    made.set_data_from_numpy(value[None])
    return made


def read_score(result: Any) -> Score:
    """The score in a response."""

    def text(name: str) -> str:
        return result.as_numpy(name).tobytes().decode()

    dimensions = text("dimensions").split(",")
    return Score(
        raw=dict(zip(dimensions, result.as_numpy("raw")[0].tolist(), strict=True)),
        normalised=dict(zip(dimensions, result.as_numpy("normalised")[0].tolist(), strict=True)),
        overall=result.as_numpy("overall").item(),
        model_version=text("model_version"),
        frame_plan=text("frame_plan"),
    )


def may_go_again(error: InferenceServerException) -> bool:
    """Whether the server turned the request away without looking at it, or lost the process that looked."""
    return error.status() in UNAVAILABLE or is_answer(error)


def is_answer(error: InferenceServerException) -> bool:
    """Whether Triton itself has no model for the moment, and the way to it is open."""
    return any(words in error.message() for words in (DEAD_BACKEND, LOADING, FULL))


def reason_of(error: InferenceServerException, model: str) -> str:
    return error.message().removeprefix(f"in ensemble '{model}', ")
