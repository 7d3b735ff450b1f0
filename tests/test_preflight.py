"""What is refused before any work for want of memory, or because a server does not answer."""

import time
from pathlib import Path

import numpy as np
import pytest

from flows.config import PipelineConfig, parse_config
from flows.preflight import check, check_reachable
from tasks.errors import InputError
from tasks.machine import memory_bytes
from tasks.train import stage


@pytest.fixture
def own(tmp_path: Path) -> dict[str, object]:
    """Settings of a small SAE on activations of one's own."""
    np.save(tmp_path / "rows.npy", np.ones((64, 8), np.float32))
    train = {"tokens": 64, "batch_tokens": 16, "workers": 1}
    return {"storage": str(tmp_path / "runs"), "activations": {"source": str(tmp_path / "rows.npy")}, "train": train}


def test_an_sae_that_this_machine_cannot_hold_is_refused_before_training(own: dict[str, object]) -> None:
    check(parse_config(own | {"sae": {"d_sae": 1024}}))
    with pytest.raises(
        InputError, match=r"sae\.d_sae is 2,000,000,000, whose weights .* 380 GiB at d_in 8, but this machine"
    ):
        check(parse_config(own | {"sae": {"d_sae": 2_000_000_000}}))


def test_memory_is_counted_by_weights_and_two_moments(own: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 3 * 4 * (8 + 8 + 1) * 32_000_000
    config = parse_config(own | {"sae": {"d_sae": 32_000_000}})
    monkeypatch.setattr(stage, "memory_bytes", lambda: needed)
    check(config)
    monkeypatch.setattr(stage, "memory_bytes", lambda: needed - 1)
    with pytest.raises(InputError, match=r"Lower sae\.d_sae"):
        check(config)


def test_an_object_store_larger_than_memory_is_refused(own: dict[str, object]) -> None:
    there = memory_bytes()
    assert there is not None
    with pytest.raises(InputError, match=r"ray\.object_store_mb is .* but this machine has"):
        check(parse_config(own | {"ray": {"object_store_mb": min(2**24, there // 2**20 + 1)}}))


@pytest.mark.parametrize("name", ["storage", "text.source", "activations.source"])
@pytest.mark.parametrize("credentials", [True, False])
def test_a_server_that_is_not_there_is_told_in_seconds(
    name: str, credentials: bool, own: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "a") if credentials else monkeypatch.delenv(variable, raising=False)
    bucket = f"s3://absent-{credentials}-{name.replace('.', '-')}"
    group, _, leaf = name.rpartition(".")
    config: PipelineConfig = parse_config(own | ({group: {leaf: bucket}} if group else {leaf: bucket}))
    started = time.process_time()
    with pytest.raises(InputError, match=rf"{name} is 's3://absent.* cannot be reached: ") as refused:
        check_reachable(config)
    assert time.process_time() - started < 15
    assert "\n" not in str(refused.value)
