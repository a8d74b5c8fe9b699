"""The finished run of tests/end_to_end, copied: a folder that sorts late, so that it is there when these tests begin."""

from tests.end_to_end.smoke import built, finished

__all__ = ["built", "finished"]
