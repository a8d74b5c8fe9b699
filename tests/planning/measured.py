"""Profiles of infra/profiles and what their generators measure, seconds of work, once for all tests of a process."""

import functools

from components.config.params import Params, load_params
from components.planning.budget import Measured, measure
from tests.conftest import REPOSITORY


def profile(name: str) -> Params:
    return load_params(REPOSITORY / f"infra/profiles/{name}.yaml")


@functools.cache
def measured(name: str) -> Measured:
    return measure(profile(name))
