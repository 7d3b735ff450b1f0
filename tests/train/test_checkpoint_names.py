"""Which checkpoints are whole, told by names alone."""

from pathlib import Path

import pytest

from tasks.storage.objects import open_store
from tasks.train.checkpoint_names import furthest_whole


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], 0),
        (["step-000000000010/state.json", "step-000000000010/state.safetensors"], 10),
        (["step-000000000010/state.json", "step-000000000020/state.safetensors"], 10),
        (["step-000000000010/state.json", "step-000000000020/state.0-of-2.json"], 10),
        (["step-000000000020/state.0-of-2.json", "step-000000000020/state.1-of-2.json"], 20),
        (["step-000000000030/state.json", "step-000000000030/state.0-of-2.json"], 0),
        (["step-000000000007/state.json", "checkpoint_manager_snapshot.json"], 7),
    ],
)
def test_the_furthest_checkpoint_counts_of_which_all_parts_are_stored(
    tmp_path: Path, files: list[str], expected: int
) -> None:
    store = open_store(str(tmp_path))
    for name in files:
        store.put(f"checkpoints/{name}", b"{}")
    assert furthest_whole(store, "checkpoints/") == expected
