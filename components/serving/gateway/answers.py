"""Results as the three protocols have them: a score, or the reason why there is none."""

from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse

from components.errors import visible
from components.reward.scores import OVERALL, Score, Unscored
from components.serving.client import Unanswered
from components.serving.gateway.guard import RETRY_SECONDS
from components.serving.gateway.wires import Identity, RewardRequest, ScoreRequest, ScoreResponse, V1Error, V1Score

NAMES = ("videoalign", "video_reward")  # rewards that UniRL may require; both are this model
MOST_REASONS = 5  # of a batch, in one line


def all_scores(score: Score) -> dict[str, float]:
    """Overall first, as readers of UniRL's protocol take the first one; then the dimensions."""
    return {OVERALL: score.overall} | score.normalised


def as_json(result: Score | Unscored) -> dict[str, Any]:
    if isinstance(result, Score):
        made = V1Score(
            scores=all_scores(result), raw=result.raw, model_version=result.model_version, frame_plan=result.frame_plan
        )
    else:
        made = V1Error(detail=visible(result.reason), retry=isinstance(result, Unanswered))
    return made.model_dump()


def one_answer(result: Score | Unscored) -> JSONResponse:
    """200 for a score, 422 for a video or prompt that has none, 503 where Triton gave no answer."""
    if isinstance(result, Score):
        return JSONResponse(as_json(result))
    if isinstance(result, Unanswered):
        return JSONResponse(as_json(result), 503, {"Retry-After": str(RETRY_SECONDS)})
    return JSONResponse(as_json(result), 422)


def outcome(result: Score | Unscored) -> str:
    return {Score: "scored", Unanswered: "unanswered"}.get(type(result), "refused")


def check_protocol(asked: ScoreRequest) -> None:
    """HTTPException 400 for what this model cannot do, whatever the videos."""
    if asked.protocol_version != "1":
        raise HTTPException(400, visible(f"unsupported protocol_version {asked.protocol_version[:20]!r}"))
    if asked.grad_mode:
        raise HTTPException(400, "grad_mode: scores come without gradients here")
    for each in asked.requests:
        for name in each.required_rewards:
            if name not in NAMES:
                raise HTTPException(400, visible(f"unknown reward: {name[:50]}. available: {', '.join(NAMES)}"))


def unirl_answer(asked: Sequence[RewardRequest], found: dict[int, Score | Unscored]) -> ScoreResponse:
    """found: results by place in `asked`, for those that required a reward. A score of another version than the required
    one is an error."""
    answer = ScoreResponse(results=[], errors=[], identities=[])
    for place, each in enumerate(asked):
        result, version = found.get(place), None
        if isinstance(result, Score):
            version = result.model_version
            if each.scorer_version not in (None, version):
                result = Unscored(f"scored by version {version}, not {each.scorer_version}")
        scored = isinstance(result, Score)
        names = dict.fromkeys(each.required_rewards)
        answer.results.append({name: all_scores(result) for name in names} if isinstance(result, Score) else {})
        answer.errors.append(dict.fromkeys(names, visible(result.reason)) if isinstance(result, Unscored) else {})
        named = each.model_dump(include=set(Identity.model_fields))
        answer.identities.append(Identity.model_validate(named | {"scorer_version": version if scored else None}))
    return answer


def rewards_of(found: Sequence[Score | Unscored], reward: Any) -> list[float]:
    """One score of each; HTTPException 503 where Triton gave no answer, 422 for other reasons, all of them in one line."""
    failed = [(place, result) for place, result in enumerate(found) if isinstance(result, Unscored)]
    if failed:
        reasons = "; ".join(f"{place}: {result.reason}" for place, result in failed[:MOST_REASONS])
        status = 503 if any(isinstance(result, Unanswered) for _, result in failed) else 422
        raise HTTPException(status, visible(f"{len(failed)} of {len(found)} clips have no score: {reasons}"))
    scores = [all_scores(result) for result in found if isinstance(result, Score)]
    if not isinstance(reward, str) or reward not in scores[0]:
        raise HTTPException(422, f"kwargs.reward is none of {', '.join(scores[0])}")
    return [each[reward] for each in scores]
