"""Score videos on a Triton server, with the answers that RewardModel.score would give.

Every frame of a clip is sent, with its rate: the server applies the frame plan of its own model, so that a client
cannot choose other frames than the model was trained with.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from components.errors import BadInput
from components.reward.score import Clip, Score, Unscored, Video, ahead
from components.video.decode import VideoError, probe, read_frames

MODEL = "video_reward"


def score_remote(
    url: str, items: Sequence[tuple[Video, str]], concurrency: int = 8, timeout: float = 300.0
) -> list[Score | Unscored]:
    """A score or a reason for each (video, prompt), in order.

    url: host:port of Triton's HTTP service. concurrency: requests under way at a time, which the server scores
    together; as many clips are in memory. timeout: seconds that the server may be silent. BadInput where no server
    answers there or it has no such model; an item that fails, for whatever cause, gets an Unscored.
    """
    address = url.removeprefix("http://").rstrip("/")
    try:
        with triton.InferenceServerClient(address) as client:
            if not client.is_model_ready(MODEL):
                raise BadInput(url, f"Triton has no model {MODEL} ready")
    except (OSError, HTTPException, ValueError, InferenceServerException) as error:
        raise BadInput(url, f"no Triton server answers: {error}") from error
    with ThreadPoolExecutor(concurrency) as pool:
        return list(ahead(pool, lambda item: score_one(address, *item, timeout), items, concurrency))


def score_one(address: str, video: Video, prompt: str, timeout: float) -> Score | Unscored:
    """Send one request and wait for its answer."""
    try:
        clip = video if isinstance(video, Clip) else Clip(read_frames(video), probe(video).fps)
        # A client of its own, as none may be shared between threads; and an idle connection would hold up a server
        # that is to stop.
        with triton.InferenceServerClient(address, network_timeout=timeout) as client:
            return read_score(client.infer(MODEL, request_tensors(clip, prompt)))
    except (VideoError, UnicodeEncodeError) as error:
        return Unscored(str(error))
    except InferenceServerException as error:
        return Unscored(error.message())
    except (OSError, HTTPException) as error:
        return Unscored(f"no answer from the server: {type(error).__name__}: {error}")


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
