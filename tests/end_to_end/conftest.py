"""Fixtures of the smoke profile's finished run."""

from tests.end_to_end.smoke import built, checkout, finished

__all__ = ["built", "checkout", "finished"]
