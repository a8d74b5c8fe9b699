"""Score videos on a Triton server, with the answers that RewardModel.score would give.

Every frame of a clip is sent, with its rate: the server applies the frame plan of its own model, so that a client cannot
choose other frames than the model was trained with.
"""

from collections import deque
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from components.errors import BadInput
from components.reward.score import Clip, Score, Unscored, Video
from components.video.decode import VideoError, probe, read_frames

MODEL = "video_reward"


def score_remote(
    url: str, items: Sequence[tuple[Video, str]], concurrency: int = 8, timeout: float = 300.0
) -> list[Score | Unscored]:
    """A score or a reason for each (video, prompt), in order.

    url: host:port of Triton's HTTP service. concurrency: requests under way at a time, which the server scores together;
    as many clips are in memory. timeout: seconds that the server may be silent. BadInput where no server answers there
    or it has no such model; an item that fails, for whatever cause, gets an Unscored.
    """
    address = url.removeprefix("http://").rstrip("/")
    client = triton.InferenceServerClient(address, concurrency=concurrency, network_timeout=timeout)
    try:
        if not client.is_model_ready(MODEL):
            raise BadInput(url, f"Triton has no model {MODEL} ready")
        results: list[Score | Unscored] = []
        waiting: deque[Any] = deque()
        for video, prompt in items:
            waiting.append(ask(client, video, prompt))
            if len(waiting) == concurrency:
                results.append(answer(waiting.popleft()))
        return results + [answer(asked) for asked in waiting]
    except OSError as error:
        raise BadInput(url, f"no Triton server answers: {error}") from error
    finally:
        client.close()


def ask(client: triton.InferenceServerClient, video: Video, prompt: str) -> triton.InferAsyncRequest | Unscored:
    """Send a request; Unscored where the video cannot be read here."""
    try:
        clip = video if isinstance(video, Clip) else Clip(read_frames(video), probe(video).fps)
        return client.async_infer(MODEL, request_tensors(clip, prompt))
    except (VideoError, InferenceServerException) as error:
        return Unscored(str(error))


def answer(asked: triton.InferAsyncRequest | Unscored) -> Score | Unscored:
    """Wait for the answer to a request."""
    if isinstance(asked, Unscored):
        return asked
    try:
        return read_score(asked.get_result())
    except InferenceServerException as error:
        return Unscored(error.message())
    except (OSError, HTTPException) as error:
        return Unscored(f"no answer from the server: {type(error).__name__} {error}")


def request_tensors(clip: Clip, prompt: str) -> list[triton.InferInput]:
    """The inputs of the model; InferenceServerException if the frames are not uint8."""
    text = np.frombuffer(prompt.encode(), np.uint8)
    rate = np.array([clip.fps], np.float64)
    tensors = []
    for name, kind, value in (("frames", "UINT8", clip.frames), ("prompt", "UINT8", text), ("fps", "FP64", rate)):
        tensor = triton.InferInput(name, [1, *value.shape], kind)
        tensor.set_data_from_numpy(value[None])
        tensors.append(tensor)
    return tensors


def read_score(result: triton.InferResult) -> Score:
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
