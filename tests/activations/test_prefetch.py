import itertools
import threading
import time

import pytest

from tasks.activations.loader.prefetch import ahead, read_ahead
from tests.patience import PATIENCE_S


@pytest.mark.parametrize(("limit", "n_ahead"), [(100, 10), (95, 9), (1, 1)])
def test_no_more_is_read_ahead_than_the_limit_allows(limit: int, n_ahead: int) -> None:
    begun: list[int] = []
    found = read_ahead(lambda i: begun.append(i) or i, itertools.count(), lambda _: 10, limit, 4)
    assert [next(found) for _ in range(50)] == list(range(50))
    assert len(begun) <= 50 + n_ahead
    found.close()


def test_reads_overlap() -> None:
    together = threading.Barrier(4)  # breaks unless four reads are under way at once

    def read(number: int) -> int:
        together.wait(timeout=PATIENCE_S)
        return number

    assert list(read_ahead(read, iter(range(8)), lambda _: 1, 100, 4)) == list(range(8))


def test_an_error_surfaces_at_its_place() -> None:
    found = read_ahead(lambda i: 6 // i, iter([3, 2, 0, 1]), lambda _: 1, 100, 2)
    assert [next(found), next(found)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_what_nobody_waits_for_any_more_is_not_read() -> None:
    begun: list[int] = []

    def read(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        return number

    found = read_ahead(read, itertools.count(), lambda _: 1, 1000, 2)
    next(found)
    found.close()
    n = len(begun)
    time.sleep(0.1)
    assert len(begun) <= n + 2


def test_a_background_thread_stops_when_its_reader_does() -> None:
    taken: list[int] = []
    found = ahead((taken.append(i) or i for i in itertools.count()), 3)
    next(found)
    found.close()
    time.sleep(0.3)
    n = len(taken)
    time.sleep(0.1)
    assert len(taken) == n <= 6
