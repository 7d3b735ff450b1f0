import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
import torch

from flows.cli import main
from flows.config import parse_config
from tasks.activations.multi_hook import open_split
from tasks.activations.schema import to_float32
from tasks.encode.encode import Encoded, encode_activations
from tasks.errors import ArtifactError, InputError
from tasks.progress import Progress, silent
from tasks.sae import load, save
from tasks.storage.artifacts import require_manifest
from tasks.storage.objects import open_store
from tests.composed import ingest
from tests.interchange.conftest import D_IN, D_SAE, Make, assert_near
from tests.patience import PATIENCE_S

ROWS = 256
ARCHS = ("topk", "l1", "jumprelu", "gated", "batchtopk")


@pytest.fixture
def activations(tmp_path: Path) -> Callable[..., str]:
    """Own activations of 256 rows in shards of 64 and row groups of 16, some of them for evaluation; gives their URI."""

    def make(width: int = D_IN, dtype: str = "float32", labels: bool = False) -> str:
        np.save(tmp_path / "rows.npy", 3 * np.random.default_rng(0).normal(size=(ROWS, width)).astype(np.float32))
        (tmp_path / "labels.txt").write_text("".join(f"row {n}\n" for n in range(ROWS)))
        source: dict[str, Any] = {"source": str(tmp_path / "rows.npy"), "dtype": dtype, "eval_fraction": 0.2}
        source |= {"labels": str(tmp_path / "labels.txt")} if labels else {}
        cut = {"shard_tokens": 64, "row_group_rows": 16}
        ingest(
            parse_config({"storage": str(tmp_path), "name": "x", "activations": source, "harvest": cut}),
            uri := f"{tmp_path}/activations/x-{'d' * 12}",
            silent,
        )
        return uri

    return make


@pytest.fixture
def trained(made: Make, tmp_path: Path) -> Callable[[str], str]:
    """Store an SAE of an architecture; gives its URI."""

    def store(arch: str) -> str:
        save(made(arch).module(), uri := f"{tmp_path}/sae-{arch}", {"hook": "model.layers.3"})
        return uri

    return store


def encode(sae: str, activations: str, out: object, **options: Any) -> Encoded:
    return encode_activations(sae, activations, str(out), silent, **{"file_rows": 40, **options})


def dense_codes(out: object, split: str) -> tuple[dict[str, Any], torch.Tensor]:
    """All columns of the files of a split, and its codes with a column for each latent."""
    keys = [entry["key"] for entry in require_manifest(str(out))["files"] if entry["key"].startswith(split)]
    tables = [pq.read_table(f"{out}/{key}") for key in keys]
    columns = {name: np.concatenate([t[name].to_numpy() for t in tables]) for name in tables[0].column_names}
    codes = torch.zeros(len(columns["position"]), D_SAE)
    for row, (latents, values) in enumerate(zip(columns["latents"], columns["values"], strict=True)):
        codes[row, torch.tensor(latents).long()] = torch.tensor(values)
    return columns, codes


def expected(sae: str, uri: str, split: str) -> tuple[Any, torch.Tensor]:
    """The stored rows of a split, and the codes that the SAE itself gives of them."""
    source = open_split(uri, ("source",), split)
    rows = [source.shard(index) for index in range(len(source.shards))]
    x = torch.cat([torch.tensor(to_float32(part.activation, source.dtype)) for part in rows])
    return rows, load(sae).encode(x)


@pytest.mark.parametrize("arch", ARCHS)
def test_codes_are_those_of_the_sae_in_stored_order(
    arch: str, activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path
) -> None:
    uri, sae = activations(), trained(arch)
    found = encode(sae, uri, tmp_path / "codes")
    active = 0
    for split in ("train", "eval"):
        columns, codes = dense_codes(tmp_path / "codes", split)
        rows, wanted = expected(sae, uri, split)
        assert_near(codes, wanted)
        for name in ("sequence", "position", "token_id"):
            assert np.array_equal(columns[name], np.concatenate([getattr(part, name) for part in rows]))
        active += int((wanted > 0).sum())
    assert (found.rows, found.hooks, found.l0) == (ROWS, ("source",), active / ROWS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_rows_of_every_dtype_are_encoded(
    dtype: str, activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path
) -> None:
    uri, sae = activations(dtype=dtype), trained("jumprelu")
    encode(sae, uri, tmp_path / "codes")
    assert_near(dense_codes(tmp_path / "codes", "train")[1], expected(sae, uri, "train")[1])


def test_a_row_lists_its_latents_in_order_and_only_active_ones(
    activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path
) -> None:
    encode(trained("topk"), activations(), tmp_path / "codes")
    columns, _ = dense_codes(tmp_path / "codes", "train")
    assert all((np.diff(latents) > 0).all() for latents in columns["latents"])
    assert all((values > 0).all() for values in columns["values"])


def test_other_readers_of_parquet_see_the_same_lists(
    activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path
) -> None:
    encode(trained("topk"), activations(), tmp_path / "codes")
    path = str(tmp_path / "codes/train/00000.parquet")
    ours = pq.read_table(path).to_pydict()
    assert list(ours) == ["sequence", "position", "token_id", "latents", "values"]
    assert polars.read_parquet(path).to_dict(as_series=False) == ours
    rows = duckdb.sql(f"select * from '{path}'").fetchall()
    assert [list(column) for column in zip(*rows, strict=True)] == list(ours.values())


def test_a_file_says_what_it_is_of(activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path) -> None:
    encode(trained("topk"), activations(), tmp_path / "codes")
    schema = pq.read_schema(tmp_path / "codes/eval/00000.parquet")
    facts = {name.decode(): value.decode() for name, value in schema.metadata.items() if name != b"ARROW:schema"}
    active = str(sum(map(len, pq.read_table(tmp_path / "codes/eval/00000.parquet")["latents"].to_pylist())))
    assert facts == {
        "sae": "sae-topk",
        "activations": f"x-{'d' * 12}",
        "hooks": "source",
        "split": "eval",
        "format_version": "1",
        "active": active,
    }
    assert str(schema.field("latents").type) == "list<element: int32 not null>"
    assert str(schema.field("values").type) == "list<element: float not null>"


def test_labels_come_along(activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path) -> None:
    uri = activations(labels=True)
    encode(trained("topk"), uri, tmp_path / "codes")
    columns, _ = dense_codes(tmp_path / "codes", "eval")
    rows, _ = expected(trained("topk"), uri, "eval")
    assert list(columns["label"]) == [label for part in rows for label in part.label]


def test_one_split_can_be_asked_for(activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path) -> None:
    found = encode(trained("topk"), activations(), tmp_path / "codes", split="eval")
    assert {path.parent.name for path in (tmp_path / "codes").rglob("*.parquet")} == {"eval"}
    assert 0 < found.rows < ROWS


def test_a_finished_encoding_is_not_made_again(
    activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path
) -> None:
    first = encode(trained("topk"), activations(), tmp_path / "codes")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "codes").rglob("*")}
    again = encode(trained("topk"), f"{tmp_path}/activations/x-{'d' * 12}", tmp_path / "codes")
    assert (first.earlier, again.earlier, again.l0) == (False, True, first.l0)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "codes").rglob("*")}


def test_a_stopped_encoding_goes_on_with_what_is_missing(
    activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path
) -> None:
    uri, sae, heard = activations(), trained("topk"), list[Progress]()
    whole = encode(sae, uri, tmp_path / "whole")

    class Enough(BaseException):
        pass

    def stop(progress: Progress) -> None:
        heard.append(progress)
        if len(heard) == 2:
            raise Enough

    with pytest.raises(Enough):
        encode_activations(sae, uri, str(tmp_path / "codes"), stop, file_rows=40)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "codes").rglob("*.parquet")}
    assert len(made) == 2 < whole.files
    encode(sae, uri, tmp_path / "codes")
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in made.items())
    assert require_manifest(f"{tmp_path}/codes") == require_manifest(f"{tmp_path}/whole")


def test_a_killed_command_given_again_ends_as_an_undisturbed_one(
    activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path
) -> None:
    uri, sae, out = activations(), trained("topk"), tmp_path / "codes"
    run = (
        "import sys, time\nfrom tasks.encode.encode import encode_activations\n"
        "encode_activations(*sys.argv[1:4], lambda progress: time.sleep(0.2), file_rows=40)"
    )
    # Each in a process of its own, as a user has it: threads, which change sums' last bits, are those of earlier tests here.
    subprocess.run([sys.executable, "-c", run, sae, uri, str(tmp_path / "whole")], check=True)
    killed = subprocess.Popen([sys.executable, "-c", run, sae, uri, str(out)])
    deadline = time.monotonic() + PATIENCE_S
    while not list(out.rglob("train/*.parquet")):
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (out / "manifest.json").exists()
    subprocess.run([sys.executable, "-c", run, sae, uri, str(out)], check=True)
    assert require_manifest(str(out)) == require_manifest(f"{tmp_path}/whole")
    for entry in require_manifest(str(out))["files"]:
        assert (out / entry["key"]).read_bytes() == (tmp_path / "whole" / entry["key"]).read_bytes()


def test_codes_go_to_a_bucket(
    activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path, s3: str
) -> None:
    uri, sae = activations(), trained("topk")
    there, here = encode(sae, uri, f"{s3}/codes"), encode(sae, uri, tmp_path / "codes")
    assert require_manifest(there.uri) == require_manifest(here.uri)
    (open_store(there.uri)).delete("manifest.json")
    assert encode(sae, uri, f"{s3}/codes").l0 == here.l0


def test_a_file_that_was_damaged_since_is_named(
    activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path
) -> None:
    uri, sae, out = activations(), trained("topk"), tmp_path / "codes"
    encode(sae, uri, out)
    (out / "manifest.json").unlink()
    (out / "train/00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"train/00000.parquet is damaged"):
        encode(sae, uri, out)


def test_codes_of_another_sae_are_not_mixed_in(
    activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path
) -> None:
    uri = activations()
    encode(trained("topk"), uri, tmp_path / "codes")
    with pytest.raises(InputError, match="which holds another encoding"):
        encode(trained("l1"), uri, tmp_path / "codes")
    with pytest.raises(InputError, match="which holds other things"):
        encode(trained("l1"), uri, tmp_path)


def test_inputs_that_do_not_fit_are_refused(
    activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path
) -> None:
    uri, sae = activations(), trained("topk")
    with pytest.raises(InputError, match=r"--hook is 'lm_head', which .* lacks; it has source"):
        encode(sae, uri, tmp_path / "codes", hook="lm_head")
    with pytest.raises(InputError, match="nowhere holds no SAE"):
        encode(f"{tmp_path}/nowhere", uri, tmp_path / "codes")
    with pytest.raises(ArtifactError, match=r"nowhere has no manifest.json"):
        encode(sae, f"{tmp_path}/nowhere", tmp_path / "codes")
    assert not (tmp_path / "codes").exists()


def test_rows_of_another_width_are_refused(
    activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"The SAE takes rows of 6 features, but those of .* have 5"):
        encode(trained("topk"), activations(width=5), tmp_path / "codes")


def test_the_command_prints_where_the_codes_are(
    activations: Callable[..., str], trained: Callable[[str], str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["encode", trained("topk"), activations(), "--out", f"{tmp_path}/codes"])
    out, err = capfd.readouterr()
    assert not ended.value.code
    assert out.startswith(f"{tmp_path}/codes: 256 rows of source, ")
    assert "encode: 256/256 rows" in err
    with pytest.raises(SystemExit):
        main(
            [
                "encode",
                f"{tmp_path}/sae-topk",
                f"{tmp_path}/activations/x-{'d' * 12}",
                "--out",
                f"{tmp_path}/codes",
                "--json",
            ]
        )
    assert json.loads(capfd.readouterr().out)["earlier"] is True
