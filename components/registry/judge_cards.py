"""The gate for the judge that decides about generators: its card of agreement with people, and the floor in params."""

from typing import Any

from components.config.operation import JudgeFloorParams
from components.evaluation.judging import cards_of
from components.judges.card import Figure, JudgeCard
from components.statistics.intervals import as_text, counted


def judge_reasons(judge: dict[str, Any], floor: JudgeFloorParams) -> tuple[list[str], dict[str, Any] | None]:
    """What speaks against a judge, an entry of `judges` of metrics/alignment.json; and its card with the file. The gold
    judge and people need no card."""
    if judge["trusted"]:
        return [], None
    found = cards_of([judge["name"]]).get(judge["identity"])
    if found is None:
        why = f"nothing tells how far {judge['name']} ({judge['identity']}) agrees with people"
        return [f"no_card: {why}; `reelign judge check {judge['name']} PAIRS.csv` measures it"], None
    file, card = found
    return floor_reasons(card, floor), {"file": str(file), **card.model_dump(mode="json")}


def floor_reasons(card: JudgeCard, floor: JudgeFloorParams) -> list[str]:
    """What of a card is not above the floor. A figure that a judge of pairs must have and was not measured is below it."""
    reasons = []
    if not card.agrees(floor.min_accuracy):
        overall = card.dimensions.get("Overall")
        said = text(overall and overall.accuracy_without_ties)
        reasons.append(f"judge_accuracy: {card.judge} {said} without ties, not surely above {floor.min_accuracy:g}")
    if card.failures > floor.max_failures * card.count:
        why = f"no verdict on {card.failures} of {counted(card.count, 'pair')}, more than {floor.max_failures:.0%}"
        reasons.append(f"judge_failures: {card.judge} has {why}")
    if card.protocol == "pairwise":
        bias, same = card.position_bias, card.self_consistency
        if bias is None or bias.value is None or abs(bias.value) > floor.max_position_bias:
            why = f"{text(bias)} towards the clip shown first, more than {floor.max_position_bias:g} or not measured"
            reasons.append(f"judge_position_bias: {card.judge} {why}")
        if same is None or same.value is None or same.value < floor.min_self_consistency:
            why = f"the same answer again in {text(same)}, less than {floor.min_self_consistency:g} or not measured"
            reasons.append(f"judge_consistency: {card.judge} {why}")
    return reasons


def text(figure: Figure | None) -> str:
    """A figure with its interval; it may have none for another reason than few prompts."""
    if figure is None or figure.value is None:
        return "none"
    found = figure.model_dump()
    return as_text(found | {"prompts": found["prompts"] or 0})
