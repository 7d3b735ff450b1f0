"""Work done before it is asked for, in threads, and never more of it than is said."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def read_ahead(
    read: Callable[[U], T], items: Iterator[U], size: Callable[[U], int], limit: int, threads: int
) -> Iterator[T]:
    """What ``read`` gives for each item, in order; an error surfaces at its place.

    ``threads`` items are read at a time. What is read or being read and was not handed out yet comes to ``limit`` bytes by
    ``size``, or to one item.
    """
    pending: deque[Future[T]] = deque()
    sizes: deque[int] = deque()
    pool = ThreadPoolExecutor(threads, "read-ahead")
    try:
        for item in items:
            while pending and sum(sizes) + size(item) > limit:
                yield pending.popleft().result()
                sizes.popleft()
            pending.append(pool.submit(read, item))
            sizes.append(size(item))
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """Iterate in a background thread, at most ``depth`` items ahead; an error surfaces at its place."""
    ready: queue.Queue[T | BaseException | None] = queue.Queue(depth)
    closed = threading.Event()

    def offer(item: T | BaseException | None) -> bool:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not offer(item):
                    return
            offer(None)
        except BaseException as error:
            offer(error)

    threading.Thread(target=run, name="read-ahead", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
