"""Plain HTTP in front of Triton's reward model: our own JSON and forms, UniRL's `/score`, Flow-Factory's `/compute`.

A score comes from Triton or not at all: what cannot be scored is an error of that video, with the reason. No answer holds a
default number.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ValidationError

from components.errors import visible
from components.reward.scores import Score, Unscored
from components.serving.client import Unanswered
from components.serving.gateway.answers import (
    NAMES,
    all_scores,
    as_json,
    check_protocol,
    one_answer,
    outcome,
    rewards_of,
    unirl_answer,
)
from components.serving.gateway.forms import FormError, read_form
from components.serving.gateway.guard import RETRY_SECONDS, Guard
from components.serving.gateway.media import Refused, clip_of, from_base64, read_below
from components.serving.gateway.metrics import TEXT, Metrics, of_monitor
from components.serving.gateway.options import GatewayOptions
from components.serving.gateway.wires import (
    Compute,
    Health,
    RewardRequest,
    Rewards,
    ScoreRequest,
    ScoreResponse,
    V1Request,
    V1Results,
    V1Score,
)

if TYPE_CHECKING:
    from components.reward.inputs import Clip

ABOUT = "Scores of VideoReward over plain HTTP. What cannot be scored gets a reason and no number."
ASIDE = 1 << 17  # bytes from which a body is parsed, and a video decoded, in a thread
Made = TypeVar("Made", bound=BaseModel)


@dataclass(frozen=True)
class Source:
    """A video that is read when its turn comes: `read` may raise Refused. aside: in a thread, as it takes a while."""

    read: "Callable[[], bytes | Clip]"
    aside: bool

    async def video(self) -> "bytes | Clip":
        return await asyncio.to_thread(self.read) if self.aside else self.read()


class Scorer(Protocol):
    """RewardClient, or what stands in for it."""

    async def score(self, video: "bytes | Clip", prompt: str) -> Score | Unscored: ...

    async def facts(self) -> dict[str, str]: ...

    async def ready(self) -> bool: ...


@dataclass(frozen=True)
class Gateway:
    """What routes share. slots: videos that are read and with Triton at a time."""

    scorer: Scorer
    options: GatewayOptions
    metrics: Metrics
    slots: asyncio.Semaphore

    async def score(self, route: str, videos: Sequence[tuple[Source, str]]) -> list[Score | Unscored]:
        """A score or a reason for each, in order."""
        found = await asyncio.gather(*(self._score(source, prompt) for source, prompt in videos))
        for result in found:
            self.metrics.videos[route, outcome(result)] += 1
        return found

    async def _score(self, source: Source, prompt: str) -> Score | Unscored:
        deadline = self.options.deadline
        try:
            async with asyncio.timeout(deadline), self.slots:
                result = await self.scorer.score(await source.video(), prompt)
        except Refused as error:
            return Unscored(str(error))
        except TimeoutError:
            return Unanswered(f"no answer within {deadline:g} s")
        if isinstance(result, Score) and not all(map(math.isfinite, [*result.raw.values(), *all_scores(result).values()])):
            return Unscored("the model's score is not finite")
        return result

    def source(self, video: str | None, path: str | None) -> Source:
        """A video that came in base64, or else by its path."""
        if video is not None:
            return Source(lambda: from_base64(video), len(video) >= ASIDE)
        return Source(lambda: read_below(self.options.root, path or "", self.options.most_bytes), True)

    def check_count(self, count: int) -> None:
        if count > self.options.most_items:
            raise HTTPException(413, f"{count} videos in a request; at most {self.options.most_items} are scored")


def create_app(scorer: Scorer, options: GatewayOptions) -> FastAPI:
    """The ASGI application. `scorer` is entered and left by the caller."""
    metrics = Metrics()
    gateway = Gateway(scorer, options, metrics, asyncio.Semaphore(options.in_flight))
    app = FastAPI(title="Reelign gateway", version="1", description=ABOUT, redoc_url=None)
    app.add_middleware(Guard, options=options, metrics=metrics)

    @app.post("/v1/score", openapi_extra=body_of(V1Request, form=True), response_model=V1Score | V1Results)
    async def score(request: Request) -> Any:
        """Score a video (form or JSON), or several (JSON, key `items`)."""
        kind, body = request.headers.get("content-type", ""), await request.body()
        if kind.startswith("multipart/form-data"):
            (found,) = await gateway.score("/v1/score", [form_item(kind, body)])
            return one_answer(found)
        if not kind.startswith("application/json"):
            raise HTTPException(415, "send multipart/form-data or application/json")
        asked = await parsed(V1Request, body)
        items = asked.items or [asked.item()]
        gateway.check_count(len(items))
        results = await gateway.score("/v1/score", [(gateway.source(i.video, i.path), i.prompt) for i in items])
        if asked.items is None:
            return one_answer(results[0])
        return JSONResponse({"results": list(map(as_json, results))})

    @app.post("/score", openapi_extra=body_of(ScoreRequest), response_model=ScoreResponse)
    async def unirl(request: Request) -> Any:
        """UniRL's reward service, protocol version 1. Rewards `videoalign` and `video_reward` are the same model."""
        asked = await parsed(ScoreRequest, await request.body())
        check_protocol(asked)
        gateway.check_count(len(asked.requests))
        scored = [place for place, each in enumerate(asked.requests) if each.required_rewards]
        videos = [unirl_video(gateway, asked.requests[place]) for place in scored]
        found = dict(zip(scored, await gateway.score("/score", videos), strict=True))
        return JSONResponse(unirl_answer(asked.requests, found).model_dump())

    @app.post("/compute", openapi_extra=body_of(Compute), response_model=Rewards)
    async def flow_factory(request: Request) -> Any:
        """Flow-Factory's remote reward. Its answer has no place for the error of one clip: where one has no score there
        is no answer but the reasons."""
        asked = await parsed(Compute, await request.body())
        kwargs = asked.kwargs or {}
        reward, fps = kwargs.get("reward", options.reward), kwargs.get("fps", options.frame_rate)
        if not asked.video or len(asked.video) != len(asked.prompt):
            raise HTTPException(
                422, f"{len(asked.prompt)} prompts and {len(asked.video or [])} videos: one a prompt is needed"
            )
        if isinstance(fps, bool) or not isinstance(fps, int | float):
            raise HTTPException(422, "frames have no rate: give kwargs.fps, or start the gateway with --frame-rate")
        gateway.check_count(len(asked.prompt))
        videos = [(frames_of(frames, fps), prompt) for frames, prompt in zip(asked.video, asked.prompt, strict=True)]
        found = await gateway.score("/compute", videos)
        return {"rewards": rewards_of(found, reward)}

    @app.get("/health", response_model=Health)
    async def health() -> Any:
        """Whether Triton's models are ready, and which model scores."""
        if not await scorer.ready():
            return JSONResponse({"detail": "the reward model is not ready"}, 503, {"Retry-After": str(RETRY_SECONDS)})
        return {"status": "ok", "rewards": dict.fromkeys(NAMES, await scorer.facts())}

    @app.get("/rewards")
    async def rewards() -> dict[str, list[str]]:
        """Names that `required_rewards` of /score may have."""
        return {"rewards": list(NAMES)}

    @app.get("/metrics")
    async def figures() -> PlainTextResponse:
        """Figures for Prometheus."""
        checked = "" if options.monitor is None else await asyncio.to_thread(of_monitor, options.monitor)
        return PlainTextResponse(metrics.text() + checked, media_type=TEXT)

    return app


async def parsed(kind: type[Made], body: bytes) -> Made:
    """HTTPException 422 names the first key that is wrong."""
    try:
        if len(body) < ASIDE:
            return kind.model_validate_json(body)
        return await asyncio.to_thread(kind.model_validate_json, body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        raise HTTPException(422, visible(f"{where}: {first['msg']}"[:300] if where else first["msg"][:300])) from error


def form_item(kind: str, body: bytes) -> tuple[Source, str]:
    """The video and the prompt of a form with the parts `video` and `prompt`."""
    try:
        parts = read_form(kind, body)
    except FormError as error:
        raise HTTPException(422, visible(str(error)[:300])) from error
    if parts.keys() != {"video", "prompt"}:
        raise HTTPException(422, "a form has the parts video (a file) and prompt")
    if not parts["video"]:
        raise HTTPException(422, "the video is empty")
    try:
        return Source(lambda: parts["video"], False), parts["prompt"].decode()
    except UnicodeDecodeError as error:
        raise HTTPException(422, "the prompt is no UTF-8") from error


def frames_of(frames: list[str], fps: float) -> Source:
    return Source(lambda: clip_of(frames, fps), True)


def unirl_video(gateway: Gateway, asked: RewardRequest) -> tuple[Source, str]:
    """The video of the last turn, and its text."""
    last = asked.history[-1]
    if last.video_b64 is None and last.video_path is None:
        return Source(no_video, False), last.text
    return gateway.source(last.video_b64, last.video_path), last.text


def no_video() -> bytes:
    raise Refused("the last turn has no video")


def body_of(*kinds: type[BaseModel], form: bool = False) -> dict[str, Any]:
    """The request of a route for the OpenAPI page: bodies are parsed by `parsed`, not by FastAPI."""
    schemas = [kind.model_json_schema() for kind in kinds]
    content: dict[str, Any] = {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}
    if form:
        properties = {"video": {"type": "string", "format": "binary"}, "prompt": {"type": "string"}}
        content["multipart/form-data"] = {
            "schema": {"type": "object", "properties": properties, "required": ["video", "prompt"]}
        }
    return {"requestBody": {"required": True, "content": content}}
