"""Sentences on the figures of an evaluation, for the head of the report and of the summary: differences that are significant
after Holm's correction, losses as well as gains, and how base was sampled."""

from components.evaluation.names import DIMENSION_NAMES, REWARD, by_judge, in_order
from components.methods import METHODS
from components.statistics.significance import LEVEL

NO_DIFFERENCE = 0.5


def lead_judge(alignment: dict) -> str:
    """The held-out judge that decides, where there is one; else VideoReward."""
    return alignment["decides"] or REWARD


def lead_rates(alignment: dict, method: str) -> tuple[str, dict[str, dict]]:
    """The judge whose win rates of a method lead, and these: VideoReward where the one that decides has no verdict."""
    rates, judge = alignment["methods"][method]["win_rate"], lead_judge(alignment)
    judge = judge if judge in rates else REWARD
    return judge, rates[judge]


def stands(found: dict) -> bool:
    """Whether a win rate significantly differs from one half after Holm's correction; False without an interval."""
    return found["ci95"] is not None and found["p_holm"] <= LEVEL


def gains_and_losses(rates: dict[str, dict]) -> tuple[list[str], list[str]]:
    """Dimensions whose win rate is significantly above one half, and those significantly below."""
    standing = {name: found["value"] for name, found in rates.items() if stands(found)}
    gains = [name for name, value in standing.items() if value > NO_DIFFERENCE]
    return gains, [name for name in standing if name not in gains]


def percent(found: dict) -> str:
    """A win rate in a sentence: 33.8% (28 to 40%)."""
    if found["ci95"] is None:
        return f"{100 * found['value']:.1f}%"
    low, high = found["ci95"]
    return f"{100 * found['value']:.1f}% ({100 * low:.0f} to {100 * high:.0f}%)"


def loss_words(rates: dict[str, dict]) -> str | None:
    """The significant losses as text: "loses visual quality (VQ 33.8% (28 to 40%))"; None without any. Overall is left out,
    as it has its own sentence."""
    lost = [name for name in gains_and_losses(rates)[1] if name != "Overall"]
    if not lost:
        return None
    return "loses " + " and ".join(f"{DIMENSION_NAMES[name]} ({name} {percent(rates[name])})" for name in lost)


def losses(alignment: dict) -> list[str]:
    """One line per method with a significant loss."""
    lines = []
    for method, _ in in_order(alignment["methods"], METHODS):
        judge, rates = lead_rates(alignment, method)
        if words := loss_words(rates):
            lines.append(f"{METHODS[method].title} {words}, by {by_judge(alignment, judge)}")
    return lines


def base_words(alignment: dict, tradeoff: dict | None) -> str:
    """Sampling settings of base, and the win rates of other scales of classifier-free guidance where tradeoff has any."""
    sampling = alignment["sampling"]
    scale = f"{sampling['guidance_scale']:g}"
    said = f"Base is sampled with guidance scale {scale}, {sampling['steps']} steps, shift {sampling['shift']:g}."
    settings = (tradeoff or {"settings": {}})["settings"]
    others = {name: entry["win_rate"] for name, entry in settings.items() if name.startswith("guidance ")}
    if tradeoff is None or not others:
        return f"{said} It was sampled at no other scale: the gain from more guidance alone is unknown."
    for name, rates in others.items():
        judge = lead_judge(alignment) if lead_judge(alignment) in rates else REWARD
        known = [dimension for dimension in DIMENSION_NAMES if dimension in rates[judge]]
        found = ", ".join(f"{dimension} {percent(rates[judge][dimension])}" for dimension in known)
        said += f" Its win rates at {name.removeprefix('guidance ')} against {scale}, by {by_judge(alignment, judge)} on"
        said += f" {tradeoff['clips']} clips: {found}."
    return f"{said} Methods are compared with base at {scale} only."
