"""Ids that stay over three versions, and what users wrote of latents."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tasks.errors import InputError
from tasks.identity.carry import carried, file_names, read_notes
from tasks.identity.matching import matching
from tasks.identity.table import SCHEMA, first_version, ids_of, next_version
from tests.identity.planted import D_SAE, compared, dictionary, reborn, rows_of, shuffled
from tests.identity.test_composition import comparison, split_codes


def three_versions() -> tuple[pa.Table, list[torch.Tensor]]:
    """The table of a line in which each version keeps all but ten latents and has ten new ones, and what it kept."""
    sae, table, orders = dictionary(), first_version("demo", 1, D_SAE), []
    for version in (2, 3):
        order = shuffled(D_SAE, seed=version)[: D_SAE - 10]
        other = reborn(sae, order, cosine=0.99, born=10, seed=10 * version)
        found = matching(compared(sae, other, rows_of(sae)))
        table = pa.concat_tables([table, next_version(found, ids_of(table, version - 1), "demo", version)])
        sae, orders = other, [*orders, order]
    return table, orders


def test_ids_are_handed_on_from_birth_to_the_last_version() -> None:
    table, (first, second) = three_versions()
    expected = [f"demo.1.{index}" for index in first.tolist()] + [f"demo.2.{index}" for index in range(D_SAE - 10, D_SAE)]
    assert ids_of(table, 2) == expected
    expected = [expected[index] for index in second.tolist()] + [f"demo.3.{index}" for index in range(D_SAE - 10, D_SAE)]
    assert ids_of(table, 3) == expected
    assert table.schema.equals(SCHEMA)


def test_every_latent_of_a_version_has_a_row_in_the_next_and_no_id_comes_twice() -> None:
    table, _ = three_versions()
    for version in (1, 2):
        now, then = (table.filter(pa.compute.equal(table["version"], n)) for n in (version, version + 1))
        there = then["stable_id"].to_pylist()
        assert len(set(there)) == len(there)
        assert set(ids_of(table, version)) <= set(there)
        ended = {row["stable_id"]: row["class"] for row in then.to_pylist() if row["index"] is None}
        assert set(ended.values()) == {"died"}
        assert len(ended) == 10
        assert now.num_rows == D_SAE + (10 if version > 1 else 0)


def test_parts_of_a_split_are_born_with_their_parents_named() -> None:
    rows = next_version(matching(comparison(*split_codes())), ["x.1.0", "x.1.1"], "x", 2).to_pylist()
    assert [(row["stable_id"], row["index"], row["class"], row["parents"]) for row in rows] == [
        ("x.2.0", 0, "split", ["x.1.0"]),
        ("x.2.1", 1, "split", ["x.1.0"]),
        ("x.2.2", 2, "born", []),
        ("x.1.0", None, "split", []),
        ("x.1.1", None, "died", []),
    ]
    assert all(row["partner"] is None and row["nearest"] is not None for row in rows)


VERSION = pa.Table.from_pylist(
    [
        {"stable_id": "x.1.0", "version": 2, "index": 7, "class": "same", "parents": []},
        {"stable_id": "x.1.1", "version": 2, "index": 3, "class": "drifted", "parents": []},
        {"stable_id": "x.1.2", "version": 2, "index": None, "class": "died", "parents": []},
        {"stable_id": "x.1.3", "version": 2, "index": None, "class": "split", "parents": []},
    ],
    SCHEMA,
)


def test_notes_are_kept_checked_again_or_dropped_by_what_became_of_their_latents() -> None:
    notes = pa.table({"stable_id": [f"x.1.{n}" for n in range(5)], "text": list("abcde")})
    found = carried(notes, VERSION)
    assert found.kept.to_pylist() == [
        {"stable_id": "x.1.0", "text": "a", "index": 7, "class": "same", "recheck": False},
        {"stable_id": "x.1.1", "text": "b", "index": 3, "class": "drifted", "recheck": True},
    ]
    assert [(row["text"], row["class"]) for row in found.dropped.to_pylist()] == [
        ("c", "died"),
        ("d", "split"),
        ("e", "unknown"),
    ]
    assert found.recheck == 1


def test_what_was_to_be_checked_again_stays_so_until_somebody_did() -> None:
    notes = pa.table({"stable_id": ["x.1.0", "x.1.0"], "recheck": [True, None], "class": ["drifted", "same"]})
    assert carried(notes, VERSION).kept["recheck"].to_pylist() == [True, False]


def test_a_csv_is_carried_over_as_the_text_that_it_is(tmp_path) -> None:
    (tmp_path / "notes.csv").write_text("stable_id,code,recheck\nx.1.0,007,1\n")
    kept = carried(read_notes(f"{tmp_path}/notes.csv"), VERSION).kept
    assert (kept["code"].to_pylist(), kept["recheck"].to_pylist()) == (["007"], [True])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_notes_come_back_in_the_kind_of_file_that_they_were_in(ending: str, tmp_path) -> None:
    notes = pa.table({"stable_id": ["x.1.0", "x.1.2"], "text": ['two\nlines, "quoted"', "gone"]})
    source = f"{tmp_path}/notes.{ending}"
    if ending == "csv":
        (tmp_path / "notes.csv").write_text('stable_id,text\nx.1.0,"two\nlines, ""quoted"""\nx.1.2,gone\n')
    else:
        pq.write_table(notes, source)
    files = carried(read_notes(source), VERSION).files(source)
    assert tuple(files) == file_names(source)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    kept, dropped = (read_notes(f"{tmp_path}/{name}") for name in files)
    assert kept["text"].to_pylist() == ['two\nlines, "quoted"']
    assert [int(index) for index in kept["index"].to_pylist()] == [7]
    assert dropped["text"].to_pylist() == ["gone"]


def test_empty_notes_are_carried_over_as_none(tmp_path) -> None:
    found = carried(pa.table({"stable_id": pa.array([], pa.string())}), VERSION)
    assert (found.kept.num_rows, found.dropped.num_rows, found.recheck) == (0, 0, 0)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("notes.csv", None, "not there"),
        ("notes.csv", b"id,text\n1,a\n", "columns are id, text"),
        ("notes.parquet", b"PAR1 but not really", "no readable table"),
    ],
)
def test_notes_that_are_none_are_refused_in_a_sentence(name: str, content: bytes | None, expected: str, tmp_path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=expected):
        read_notes(f"{tmp_path}/{name}")
