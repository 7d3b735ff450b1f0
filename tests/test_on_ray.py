"""Connecting to Ray."""

import pytest
import ray

from tasks.config import RayConfig
from tasks.errors import SaemillError
from tasks.on_ray import _start_local

TIMED_OUT = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


def test_a_machine_too_busy_to_start_ray_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise Exception(TIMED_OUT)  # noqa: TRY002 -- Ray's own (2.60, ray/_private/node.py)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(SaemillError, match=r"did not start .* within 30 s.*same command again"):
        _start_local(RayConfig(num_cpus=1))


def test_the_words_that_ray_uses_are_these() -> None:
    with open(ray._private.node.__file__) as source:
        assert "timed out during startup" in source.read()
