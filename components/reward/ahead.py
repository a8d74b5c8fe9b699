"""Work ahead in threads, as far as a number of results and their bytes allow."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Condition
from typing import Any

HELD = 1 << 30  # bytes of frames that wait at a time, to be taken or to be scored


def ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[Any], Any],
    items: Iterable[Any],
    most: int,
    weigh: Callable[[Any], int],
    room: int = HELD,
) -> Iterator[Any]:
    """map(function, items), in order, with at most `most` results worked out ahead of the reader.

    While results that wait weigh `room` or more, only the next one is begun. Memory holds at most `room` and one result for
    each thread of `pool`.
    """
    waiting: deque = deque()
    change = Condition()
    held = taken = 0
    closed = False

    def work(place: int, item: Any) -> Any:
        nonlocal held
        with change:
            change.wait_for(lambda: closed or held < room or place == taken)
            if closed:
                return None
        result = function(item)
        with change:
            held += weigh(result)
        return result

    def take() -> Any:
        nonlocal held, taken
        result = waiting.popleft().result()
        with change:
            held -= weigh(result)
            taken += 1
            change.notify_all()
        return result

    try:
        for place, item in enumerate(items):
            waiting.append(pool.submit(work, place, item))
            if len(waiting) >= most:
                yield take()
        while waiting:
            yield take()
    finally:
        with change:
            closed = True
            change.notify_all()
