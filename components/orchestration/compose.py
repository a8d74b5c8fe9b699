"""Settings of a service in infra/compose.yaml, for the same service as a process on the loopback."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.errors import BadInput
from components.files.text import read_text

COMPOSE = Path("infra/compose.yaml")
VARIABLE = re.compile(r"\$\{(\w+)[^}]*\}")


@dataclass(frozen=True)
class Compose:
    """`variables`: values of those in the file. `places`: what stands for an address or a folder of a container here."""

    services: Mapping[str, Any]
    variables: Mapping[str, str]
    places: Mapping[str, str]

    def command(self, name: str, **places: str) -> list[str]:
        """The words of a service's command; of a script, those of the program that it ends in."""
        words = self.services[name]["command"]
        if len(words) == 1:
            words = words[0].rpartition("exec ")[2].replace("\\\n", " ").split()
        return [self._here(word, places) for word in words]

    def environment(self, name: str) -> dict[str, str]:
        return {key: self._here(value, {}) for key, value in self.services[name].get("environment", {}).items()}

    def _here(self, text: str, places: Mapping[str, str]) -> str:
        for there, here in {**self.places, **places}.items():
            text = text.replace(there, here)
        return VARIABLE.sub(lambda match: self.variables[match[1]], text).replace("$$", "$")


def read_compose(variables: Mapping[str, str], places: Mapping[str, str]) -> Compose:
    return Compose(_services(), variables, places)


def secrets_of(names: list[str]) -> set[str]:
    """Variables without a default in the settings of these services."""
    known = _services()
    texts = [str(known[name].get("environment", {})) for name in names]
    return {match[1] for text in texts for match in re.finditer(r"\$\{(\w+):\?", text)}


def _services() -> Mapping[str, Any]:
    try:
        return yaml.safe_load(read_text(COMPOSE))["services"]
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise BadInput(COMPOSE, f"no compose file ({error})") from error
