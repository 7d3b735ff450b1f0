from collections.abc import Iterator

import pytest

from tasks.notify import webhook
from tests.nights.hook import Hook, listening_hook


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    """A webhook, and no long waits between tries."""
    monkeypatch.setattr(webhook, "WAITS_S", (0.01, 0.01))
    with listening_hook() as found:
        yield found
