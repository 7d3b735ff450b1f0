"""Trying again what a storage server could not do just now, for longer than a restart of it takes."""

import functools
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from tasks.errors import SaemillError

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Codes below 500 with which a server asks to be asked again; ConditionalRequestConflict: two create-only PUTs at once.
_AGAIN_CODES = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "ConditionalRequestConflict"}
# 501 will be 501 tomorrow too.
_NEVER_STATUS = {501}
_TOO_MANY_REQUESTS = 429


def _jitter(low: float, high: float) -> float:
    # Not random.uniform itself: pickled to actors it would carry its state along, and all would wait in step.
    return random.uniform(low, high)


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long, and how often, a request is tried again: exponential backoff with full jitter.

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    seconds: float = 90.0
    """From the first failure to the last attempt; a killed and restarted server is back well within a minute."""
    first_s: float = 0.1
    """Upper bound of the first wait; each bound is twice the one before."""
    cap_s: float = 8.0
    """Upper bound of any wait."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = _jitter

    def waits(self) -> Iterator[float]:
        """Seconds to wait before each attempt after the first, without end."""
        for n in itertools.count():
            # The exponent is bounded so that a day of attempts does not overflow a float.
            yield self.uniform(0.0, min(self.cap_s, self.first_s * 2 ** min(n, 32)))


def retried(call: Callable[[], T], what: Callable[[], str], patience: Patience) -> T:
    """What ``call`` gives, tried again while it fails for a reason that may pass.

    Args:
        call: a request that may be repeated without harm.
        what: gives the request in words, such as "get of s3://lake/a at http://host:8333"; called after a failure only.
        patience: the schedule.

    Raises:
        SaemillError: it still failed when the time was up.
        OSError: it failed for another reason, such as FileNotFoundError; all that ``call`` raises comes out as it is.
    """
    failed_at: float | None = None
    for wait in patience.waits():
        try:
            return call()
        except _failures() as error:
            if not may_pass(error):
                raise
            now = patience.clock()
            if failed_at is None:
                failed_at = now
                logger.warning("%s failed and is tried again for %.0f s: %s", what(), patience.seconds, _reason(error))
            left = failed_at + patience.seconds - now
            if left <= 0:
                raise SaemillError(
                    f"The {what()} has failed for {now - failed_at:.0f} s, at last with: {_reason(error)}. "
                    "See whether the server is up and can be reached, then give the same command again."
                ) from error
        patience.sleep(min(wait, left))  # the last attempt is made when the time is just up
    raise AssertionError("waits() is endless")


def may_pass(error: BaseException) -> bool:
    """Whether an error is the server's or the network's for now: not there, overloaded, broken; never 403, 404 or 412."""
    response = _response(error)
    if response is not None:
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = response.get("Error", {}).get("Code", "")
        return code in _AGAIN_CODES or status == _TOO_MANY_REQUESTS or (status >= 500 and status not in _NEVER_STATUS)
    if type(error).__name__ == "SSLError":  # a certificate that is not trusted now will not be in a minute
        return False
    return isinstance(error, (ConnectionError, TimeoutError, *_network_errors()))


def _response(error: BaseException) -> dict[str, Any] | None:
    """What the server answered, where it did: s3fs turns botocore's error into an OSError and keeps it as the cause."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return response
    return None


@functools.cache
def _network_errors() -> tuple[type[Exception], ...]:
    """What a lost connection looks like when the server said nothing; imported when first needed, for it takes 0.3 s."""
    from aiohttp import ClientError as AiohttpError
    from botocore.exceptions import ConnectionError as BotoConnectionError
    from botocore.exceptions import HTTPClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError as Urllib3Error

    return (AiohttpError, BotoConnectionError, HTTPClientError, ResponseParserError, Urllib3Error)


def _failures() -> tuple[type[Exception], ...]:
    return (OSError, *_network_errors())


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
