"""Which hooks' rows are encoded: the SAE's own, all of a crosscoder's side by side, or the one that is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tasks.activations.schema import RowFormat
from tasks.activations.writer import Rows, encode_shard
from tasks.encode.encode import Encoded, encode_activations
from tasks.errors import InputError
from tasks.progress import silent
from tasks.sae import load, save
from tasks.storage.artifacts import write_manifest
from tasks.storage.objects import open_store
from tests.interchange.conftest import Make

ROWS = 20
WIDTHS = {"early": 2, "middle": 4, "late": 6}


@pytest.fixture
def activations(tmp_path: Path) -> str:
    """One shard of 20 rows of three hooks, and no rows for evaluation."""
    uri, hooks = str(tmp_path / "activations"), {}
    for hook, width in WIDTHS.items():
        numbers = np.arange(ROWS)
        places = (numbers.astype(np.int32), numbers.astype(np.int64), numbers.astype(np.int32))
        encoded = encode_shard(Rows(rows_of(hook), *places), RowFormat(width, "float32", hook, "m", "main", "0" * 12), 8)
        key = f"{hook}/train/00000-{encoded.sha256[:12]}.parquet"
        open_store(uri).put(key, encoded.data)
        shard = {"key": key, "size": len(encoded.data), "rows": ROWS, "row_groups": encoded.row_groups, "first_sequence": 0}
        splits = {"train": {"rows": ROWS, "shards": [shard]}, "eval": {"rows": 0, "shards": []}}
        statistics = {"train": {"mean": [0.0] * width, "variance": 1.0, "median_norm": 1.0}}
        hooks[hook] = {"d_in": width, "dtype": "float32", "splits": splits, "statistics": statistics}
    write_manifest(uri, {"stage": "activations", "hooks": hooks})
    return uri


def rows_of(hook: str) -> Any:
    return np.random.default_rng(WIDTHS[hook]).normal(size=(ROWS, WIDTHS[hook])).astype(np.float32)


@pytest.fixture
def trained_on(made: Make, tmp_path: Path) -> Callable[..., str]:
    """Store an SAE of width 6 that says it is of these hooks; gives its URI."""

    def store(*hooks: str) -> str:
        several = {"hooks": list(hooks)} if len(hooks) > 1 else {}
        save(made("jumprelu").module(), uri := str(tmp_path / "sae"), {"hook": hooks[0], **several})
        return uri

    return store


def encode(sae: str, activations: str, out: Path, hook: str | None = None) -> Encoded:
    return encode_activations(sae, activations, str(out), silent, hook=hook)


def assert_codes_of(out: Path, sae: str, x: Any) -> None:
    codes = load(sae).encode(torch.tensor(x))
    found = pq.read_table(out / "train/00000.parquet")
    assert [row.tolist() for row in found["latents"].to_numpy()] == [row.nonzero()[:, 0].tolist() for row in codes]


def test_the_rows_of_the_hook_that_the_sae_was_trained_on(
    activations: str, trained_on: Callable[..., str], tmp_path: Path
) -> None:
    sae = trained_on("late")
    assert encode(sae, activations, tmp_path / "codes").hooks == ("late",)
    assert_codes_of(tmp_path / "codes", sae, rows_of("late"))


def test_the_rows_of_all_hooks_of_a_crosscoder_in_its_order(
    activations: str, trained_on: Callable[..., str], tmp_path: Path
) -> None:
    sae = trained_on("middle", "early")
    assert encode(sae, activations, tmp_path / "codes").hooks == ("middle", "early")
    assert_codes_of(tmp_path / "codes", sae, np.hstack([rows_of("middle"), rows_of("early")]))


def test_the_rows_that_are_asked_for(activations: str, trained_on: Callable[..., str], tmp_path: Path) -> None:
    sae = trained_on("blocks.8.hook_resid_post")
    with pytest.raises(
        InputError, match=r"of blocks\.8\.hook_resid_post, which .* lacks; choose one with --hook: early, late"
    ):
        encode(sae, activations, tmp_path / "codes")
    assert encode(sae, activations, tmp_path / "codes", hook="late").hooks == ("late",)
    with pytest.raises(InputError, match=r"takes rows of 6 features, but those of .* have 2"):
        encode(sae, activations, tmp_path / "others", hook="early")


def test_a_split_without_rows_is_refused(activations: str, trained_on: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no eval rows to encode"):
        encode_activations(trained_on("late"), activations, str(tmp_path / "codes"), silent, split="eval")
