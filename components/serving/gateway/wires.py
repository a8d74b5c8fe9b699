"""Requests and answers of the three protocols, with the names of those who defined them.

/v1/score is ours. /score is that of UniRL's reward service (protocol version 1), /compute that of Flow-Factory's remote
reward. Unknown keys are refused in ours and ignored in theirs, as their own servers do.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Item(BaseModel):
    """A video and its prompt. video: the bytes of a file in base64. path: of a file below the gateway's --root."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    video: str | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "Item":
        if (self.video is None) == (self.path is None):
            raise ValueError("give video or path, one of them")
        return self


class V1Request(BaseModel):
    """A video and its prompt, or `items`: several, of which each gets a score or an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str | None = None
    video: str | None = None
    path: str | None = None
    items: Annotated[list[Item], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_or_several(self) -> "V1Request":
        if self.items is not None and (self.prompt, self.video, self.path) != (None, None, None):
            raise ValueError("give items, or prompt with video or path")
        if self.items is None:
            self.item()
        return self

    def item(self) -> Item:
        """Of a request for one video; ValueError where it has no prompt, or not one source."""
        if self.prompt is None:
            raise ValueError("give a prompt")
        return Item(prompt=self.prompt, video=self.video, path=self.path)


class V1Score(Wire):
    """scores: normalised, by dimension, and Overall. raw: as the model gives them."""

    scores: dict[str, float]
    raw: dict[str, float]
    model_version: str
    frame_plan: str


class V1Error(Wire):
    """Why there is no score. retry: whether the same request may get one later."""

    detail: str
    retry: bool = False


class V1Results(Wire):
    """In the order of the items."""

    results: list[V1Score | V1Error]


class Turn(Wire):
    """Of a history: a text and a video, in base64 or as a path of the server's. Pictures are read by other rewards."""

    text: str
    image_b64: str | None = None
    image_ipc: str | None = None
    video_b64: str | None = None
    video_path: str | None = None

    @model_validator(mode="after")
    def _media(self) -> "Turn":
        for one, other in (("video_b64", "video_path"), ("image_b64", "image_ipc")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"{one} and {other} exclude each other")
        if {self.image_b64, self.image_ipc, self.video_b64, self.video_path} == {None}:
            raise ValueError("a turn has an image or a video")
        return self


class Identity(Wire):
    """Names of an item, given back as they came; scorer_version is the version of the model that scored it."""

    request_id: str | None = None
    sample_id: str | None = None
    group_id: str | None = None
    source_rank: int | None = None
    policy_version: int | None = None
    scorer_version: str | None = None
    idempotency_key: str | None = None


class RewardRequest(Identity):
    history: Annotated[list[Turn], Field(min_length=1)]
    required_rewards: list[str]
    metadata: dict[str, Any] | None = None


class ScoreRequest(Wire):
    protocol_version: str = "1"
    requests: list[RewardRequest]
    grad_mode: bool = False
    call_id: str | None = None


class ScoreResponse(Wire):
    """results[i][reward][score]. A reward without a score is left out there, and has its reason in errors[i][reward]."""

    results: list[dict[str, dict[str, float]]]
    errors: list[dict[str, str]]
    identities: list[Identity]
    protocol_version: Literal["1"] = "1"


class Compute(Wire):
    """prompt and video have an entry a clip, video[i] a picture a frame in base64. kwargs may have `fps`, the frame rate of
    the clips, and `reward`, the score to return."""

    prompt: list[str]
    video: list[list[str]] | None = None
    image: Any = None
    condition_images: Any = None
    condition_videos: Any = None
    kwargs: dict[str, Any] | None = None


class Rewards(Wire):
    """In the order of the prompts."""

    rewards: list[float]


class Health(Wire):
    status: Literal["ok"]
    rewards: dict[str, Any]
