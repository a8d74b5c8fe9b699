"""Take the alias `champion` off a version that was rolled back on the server.

The version that serves is then the default of a deployment, and the one that a new version is compared with."""

from typing import Any

from components.contracts import CHAMPION
from components.registry.versions import aliases, versions_with

ROLLED_BACK = "rolled_back"  # tag: when the version was taken off the server


def put_back(client: Any, bad: str, good: str) -> list[str]:
    """Move the alias of each registered model whose champion has digest `bad` to its newest version of digest `good`; a line
    for each, also where there is none to move it to. Nothing to do gives no line."""
    lines = []
    for version in versions_with(client, bad):
        model, number = version.name, str(version.version)
        if aliases(client, model).get(CHAMPION) != number:
            continue
        earlier = [str(found.version) for found in versions_with(client, good) if found.name == model]
        client.set_model_version_tag(model, number, ROLLED_BACK, good)
        if earlier:
            client.set_registered_model_alias(model, CHAMPION, earlier[0])
            lines.append(f"{model}/{earlier[0]} is champion again, after {number} was rolled back")
        else:
            lines.append(f"warning: {model}/{number} was rolled back and is champion still: no version is what serves now")
    return lines
