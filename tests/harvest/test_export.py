import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load

from flows.cli import main
from flows.config import parse_config
from tasks.activations.reader import Split
from tasks.activations.schema import to_float32
from tasks.errors import ArtifactError, InputError, SaemillError
from tasks.harvest.export import Exported, export_activations
from tasks.harvest.formats import FormatName
from tasks.progress import Progress, silent
from tasks.storage.artifacts import require_manifest
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store
from tests.composed import ingest
from tests.harvest.conftest import Harvested

ROWS, WIDTH, CONTEXT = 256, 5, 4
FORMATS = get_args(FormatName)
DTYPES = ("bfloat16", "float16", "float32", "int8")
# Bytes of a file in most tests: 16 float32 rows, so that files begin and end inside shards and row groups.
SMALL = 16 * WIDTH * 4

Columns = dict[str, Any]


@pytest.fixture
def activations(tmp_path: Path) -> Callable[..., str]:
    """Write own activations of 256 rows, in four chunks; gives their URI."""

    def make(dtype: str = "float32", labels: bool = False) -> str:
        np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32))
        (tmp_path / "labels.txt").write_text("".join(f"row {n}\n" for n in range(ROWS)))
        source: Columns = {"source": str(tmp_path / "rows.npy"), "dtype": dtype, "eval_fraction": 0.2}
        source |= {"labels": str(tmp_path / "labels.txt")} if labels else {}
        cut = {"shard_tokens": 64, "row_group_rows": 16}
        ingest(
            parse_config({"storage": str(tmp_path), "name": "x", "activations": source, "harvest": cut}),
            uri := f"{tmp_path}/activations/x-{'d' * 12}",
            silent,
        )
        return uri

    return make


def export(uri: str, out: object, name: FormatName, **options: Any) -> Exported:
    return export_activations(uri, str(out), name, silent, **{"context": CONTEXT, "file_bytes": SMALL, **options})


def stored(uri: str, hook: str = "source", split: str = "train") -> Columns:
    """What the reader gives of a split, activations as float32."""
    source = Split(uri, hook, split)
    shards = [source.shard(index) for index in range(len(source.shards))]
    names = ("token_id", "sequence", "position")
    found: Columns = {name: np.concatenate([getattr(rows, name) for rows in shards]) for name in names}
    found["activation"] = np.concatenate([to_float32(rows.activation, source.dtype) for rows in shards])
    found["label"] = [label for rows in shards for label in rows.label or ()]
    return found


def exported(out: object, name: FormatName, hook: str = "source") -> tuple[Columns, str]:
    """What the format's own library reads of an export, activations as float32, and the dtype they had."""
    keys = [entry["key"] for entry in require_manifest(str(out))["files"]]
    if name == "list":
        tables = [pq.read_table(f"{out}/{key}") for key in keys]
        found = {c: np.concatenate([t[c].to_numpy() for t in tables]) for c in tables[0].column_names}
        activation = np.stack(found["activation"])
        return {**found, "activation": activation.astype(np.float32)}, str(activation.dtype)
    if name == "safetensors":
        files = [load(Path(str(out), key).read_bytes()) for key in keys]
        dtype = str(files[0]["activations"].dtype).removeprefix("torch.")
        found = {c: np.concatenate([file[c].float().numpy() for file in files]) for c in files[0]}
        return {**found, "activation": found.pop("activations")}, dtype
    import datasets

    dataset = datasets.load_from_disk(str(out))
    columns = dataset.with_format("numpy")[:]
    activation = columns[hook]
    assert dataset.features[hook].shape == activation.shape[1:] == (CONTEXT, activation.shape[-1])
    found = {c: columns[c].reshape(-1) for c in columns if c != hook}
    found["token_id"] = found.pop("token_ids")
    return {**found, "activation": activation.reshape(-1, activation.shape[-1])}, dataset.features[hook].dtype


def require_equal(found: Columns, expected: Columns) -> None:
    n = len(found["activation"])
    for name in ("activation", "token_id", "sequence", "position"):
        np.testing.assert_array_equal(found[name], expected[name][:n], err_msg=name)


def whole(store: ObjectStore) -> dict[str, bytes]:
    return {info.key: store.get(info.key) for info in store.list()}


def say(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["export-activations", *arguments])
    return int(stopped.value.code or 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMATS)
def test_what_comes_out_is_what_the_reader_gives(
    activations: Callable[..., str], tmp_path: Path, name: FormatName, dtype: str
) -> None:
    uri = activations(dtype)
    done = export(uri, tmp_path / "out", name)
    found, number = exported(tmp_path / "out", name)
    require_equal(found, expected := stored(uri))
    assert len(found["activation"]) == done.rows == len(expected["activation"]) - done.left_out
    assert done.files > 5, "files of one shard each would not show that they are cut by rows"
    kept = ("float16", "float32", *(["bfloat16"] if name == "safetensors" else []))
    assert number == (dtype if dtype in kept else "float32")


def test_only_a_dataset_of_whole_contexts_leaves_rows_out_and_fewer_than_one_context(
    activations: Callable[..., str], tmp_path: Path
) -> None:
    uri = activations()
    rows = Split(uri, "source", "train").rows
    assert rows % 100
    assert export(uri, tmp_path / "hf", "hf", context=100).left_out == rows % 100
    assert export(uri, tmp_path / "list", "list", context=100).left_out == 0


@pytest.mark.parametrize("name", ["list", "hf"])
def test_labels_come_along(activations: Callable[..., str], tmp_path: Path, name: FormatName) -> None:
    uri = activations(labels=True)
    export(uri, tmp_path / "out", name)
    labels = exported(tmp_path / "out", name)[0]["label"]
    expected = stored(uri)
    assert list(labels) == expected["label"][: len(labels)] == [f"row {n}" for n in expected["sequence"][: len(labels)]]


@pytest.mark.ray
@pytest.mark.parametrize("name", FORMATS)
def test_harvested_rows_carry_the_sequences_of_their_corpus(harvested: Harvested, tmp_path: Path, name: FormatName) -> None:
    hook = "model.layers.1.mlp:input"
    export(harvested.out, tmp_path / "out", name, hook=hook, split="eval")
    found, _ = exported(tmp_path / "out", name, hook)
    require_equal(found, stored(harvested.out, hook, "eval"))
    assert found["sequence"].min() == 40
    assert found["sequence"].max() == 45


@pytest.mark.parametrize("name", FORMATS)
def test_a_finished_export_is_left_alone(activations: Callable[..., str], tmp_path: Path, name: FormatName) -> None:
    uri, store = activations(), open_store(str(tmp_path / "out"))
    first = export(uri, store.uri, name)
    before = {info.key: info.modified for info in store.list()}
    again = export(uri, store.uri, name)
    assert (first.earlier, again.earlier) == (False, True)
    assert (again.files, again.rows, again.size) == (first.files, first.rows, first.size)
    assert {info.key: info.modified for info in store.list()} == before


class Stop(Exception):  # noqa: N818 - what a kill is, no error
    pass


@pytest.mark.parametrize("name", FORMATS)
def test_a_stopped_export_goes_on_to_what_an_undisturbed_one_holds(
    activations: Callable[..., str], tmp_path: Path, name: FormatName
) -> None:
    uri, store = activations(), open_store(str(tmp_path / "out"))

    def stop(progress: Progress) -> None:
        if progress.done > progress.total / 2:
            raise Stop

    with pytest.raises(Stop):
        export_activations(uri, store.uri, name, stop, context=CONTEXT, file_bytes=SMALL)
    assert store.head("manifest.json") is None
    before = {info.key: info.modified for info in store.list()}
    assert len(before) > 3
    export(uri, store.uri, name)
    export(uri, tmp_path / "undisturbed", name)
    assert whole(store) == whole(open_store(str(tmp_path / "undisturbed")))
    assert before.items() <= {info.key: info.modified for info in store.list()}.items(), "a file was written twice"


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_survives_kill_9_wherever_it_is(activations: Callable[..., str], tmp_path: Path, name: FormatName) -> None:
    uri, store = activations(), open_store(str(tmp_path / "out"))
    script = (
        "import sys; from tasks.harvest.export import export_activations; from tasks.progress import silent\n"
        f"export_activations(*sys.argv[1:], silent, context={CONTEXT}, file_bytes={WIDTH * 4 * CONTEXT})"
    )
    for files in (2, 25):
        with subprocess.Popen([sys.executable, "-c", script, uri, store.uri, name], env=environment()) as process:
            while len(list(store.list())) < files and process.poll() is None:
                time.sleep(0.0005)
            process.kill()
        assert process.returncode == -signal.SIGKILL, "it was done before it was killed"
    export(uri, store.uri, name, file_bytes=WIDTH * 4 * CONTEXT)
    export(uri, tmp_path / "undisturbed", name, file_bytes=WIDTH * 4 * CONTEXT)
    assert whole(store) == whole(open_store(str(tmp_path / "undisturbed")))


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}


def test_what_a_killed_export_left_half_written_goes_but_not_what_may_be_at_work(
    activations: Callable[..., str], tmp_path: Path
) -> None:
    uri = activations()
    export(uri, tmp_path / "out", "list")
    old, young = (tmp_path / "out" / "train" / f".tmp-{digit * 32}" for digit in "01")
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    export(uri, tmp_path / "out", "list")
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.s3
@pytest.mark.parametrize("name", FORMATS)
def test_from_and_to_s3_it_is_the_same(activations: Callable[..., str], s3: str, tmp_path: Path, name: FormatName) -> None:
    here, there = open_store(activations()), open_store(f"{s3}/{tmp_path.name}/activations/x-{'d' * 12}")
    for info in here.list():
        there.put(info.key, here.get(info.key))
    out = f"{s3}/{tmp_path.name}/out"
    export(there.uri, f"{out}/", name)
    assert export(there.uri, out, name).earlier
    export(here.uri, tmp_path / "out", name)
    assert whole(open_store(out)) == whole(open_store(str(tmp_path / "out")))


def test_a_folder_with_other_things_is_refused_and_left_as_it_was(activations: Callable[..., str], tmp_path: Path) -> None:
    uri = activations()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"out, which holds other things \(mine.txt\)"):
        export(uri, tmp_path / "out", "list")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="which is a file"):
        export(uri, tmp_path / "out" / "mine.txt", "list")
    with pytest.raises(InputError, match="holds other things"):
        export(uri, uri, "list")


@pytest.mark.parametrize("other", [{"split": "eval"}, {"file_bytes": 2 * SMALL}])
def test_a_folder_with_another_export_is_refused(
    activations: Callable[..., str], tmp_path: Path, other: dict[str, Any]
) -> None:
    uri = activations()
    export(uri, tmp_path / "out", "list")
    before = whole(open_store(str(tmp_path / "out")))
    with pytest.raises(InputError, match=r"holds (another export|other things)"):
        export(uri, tmp_path / "out", "list", **other)
    assert whole(open_store(str(tmp_path / "out"))) == before


def test_a_damaged_shard_stops_it_by_name_before_a_manifest(activations: Callable[..., str], tmp_path: Path) -> None:
    uri = activations()
    key = Split(uri, "source", "train").shards[1]["key"]
    path = Path(uri, key)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=key):
        export(uri, tmp_path / "out", "list")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_full_disk_is_seen_before_the_first_row(
    activations: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = activations()
    monkeypatch.setattr("tasks.harvest.export.free_bytes", lambda uri: 100)  # nobody fills a disk for a test
    with pytest.raises(InputError, match="but only 100 are free"):
        export(uri, tmp_path / "out", "list")
    assert not (tmp_path / "out" / "train").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--hook", "nope"], "--hook is 'nope', which .* lacks; it has source"),
        (["--format", "hf", "--context", "5000"], "fewer than --context 5000"),
        (["--format", "csv"], "'csv' is not one of"),
        (["--split", "test"], "'test' is not one of"),
        (["--context", "0"], "greater than or equal to 1"),
    ],
)
def test_bad_input_is_one_sentence(
    activations: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    sentence: str,
) -> None:
    given = [activations(), "--out", str(tmp_path / "out"), *([] if "--format" in options else ["--format", "list"])]
    assert say(*given, *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1

    assert re.search(sentence, err), err


def test_other_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an activations directory was expected"):
        export(str(tmp_path), tmp_path / "out", "list")
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / "manifest.json").write_text('{"stage": "sae"}')
    with pytest.raises(SaemillError, match=r"sae is a directory of stage sae; .* an activations directory was expected"):
        export(str(tmp_path / "sae"), tmp_path / "out", "list")


@pytest.mark.ray
def test_of_several_hooks_one_must_be_chosen(harvested: Harvested, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds 2 hooks; choose one with --hook: model.layers.0, model.layers.1.mlp:input"):
        export(harvested.out, tmp_path / "out", "list")


def test_the_command_says_what_it_wrote(
    activations: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, out = activations(), str(tmp_path / "out")
    rows = Split(uri, "source", "train").rows
    assert say(uri, "--format", "hf", "--context", "100", "--out", out) == 0
    size = Path(out, "data-00000-of-00001.arrow").stat().st_size
    left_out = f"{rows % 100} rows at the end filled no row of the dataset"
    assert capsys.readouterr().out == (
        f"{out}: {rows - rows % 100} train rows of source in 1 files, {size:,} bytes; {left_out}\n"
    )
    assert say(uri, "--format", "hf", "--context", "100", "--out", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found.items() >= {"uri": out, "format": "hf", "rows": 200, "left_out": rows - 200, "earlier": True}.items()
