"""axe-core's rules on accessibility, run in the browser of a test; the script is that of docker/locks/axe.txt."""

import json
from pathlib import Path

from tests.annotation.browser import Page

SCRIPT = Path(".axe/axe_playwright_python/axe.min.js")
SERIOUS = ("serious", "critical")


async def violations(page: Page) -> list[str]:
    """A line a serious violation on the open page: impact, rule, what it means, and the first places."""
    await page.evaluate(SCRIPT.read_text())
    found = json.loads(await page.evaluate("axe.run().then((result) => JSON.stringify(result.violations))"))
    return [
        f"{one['impact']} {one['id']}: {one['help']}; {[node['html'][:120] for node in one['nodes'][:3]]}"
        for one in found
        if one["impact"] in SERIOUS
    ]
