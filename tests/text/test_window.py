import types
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.config import PipelineConfig
from tasks.errors import InputError
from tasks.progress import silent
from tasks.storage.artifacts import read_manifest
from tasks.text.config import TextConfig
from tasks.text.corpus import Corpus, check_corpus, corpus_identity
from tests.composed import tokenize

DAYS = [date(2026, 11, 1) + timedelta(days=i) for i in range(10)]
ROWS = [{"text": f"{day} {i}", "when": day.isoformat()} for i in range(6) for day in DAYS]  # as unsorted as can be


def texts(source, **settings):
    corpus = Corpus(TextConfig(source=str(source), **settings))
    return [document.text for document in corpus.documents()]


@pytest.fixture
def by_path(write, tmp_path):
    """A folder with a file for each of ten days; returns it."""
    for day in DAYS:
        write(f"in/{day:%Y/%m/%d}/a.jsonl", [{"text": f"{day} {i}"} for i in range(6)])
    return tmp_path / "in"


@pytest.mark.parametrize(("n_days", "n_read"), [(1, 6), (3, 18), (100, 60)])
def test_files_within_so_many_days_of_the_newest_are_read(by_path, n_days, n_read):
    found = texts(by_path, window_days=n_days)
    assert len(found) == n_read
    assert {text[:10] for text in found} == {day.isoformat() for day in DAYS[-n_days:]}


def test_a_file_without_a_date_is_named(by_path, write):
    write("in/more/b.jsonl", [{"text": "b"}])
    assert len(texts(by_path)) == 61
    for refuse in (texts, lambda source, **settings: check_corpus(TextConfig(source=str(source), **settings))):
        with pytest.raises(InputError, match=r"no date in the path .*in/more/b\.jsonl\. .*text\.date_column"):
            refuse(by_path, window_days=3)


def test_files_before_the_window_do_not_change_the_identity_and_files_within_it_do(by_path, write):
    def identities():
        return [corpus_identity(TextConfig(source=str(by_path), window_days=n)) for n in (3, None)]

    windowed, whole = identities()
    write("in/1999/01/01/old.jsonl", [{"text": "old"}])
    assert identities()[0] == windowed
    assert identities()[1] != whole
    write("in/2026/11/09/new.jsonl", [{"text": "new"}])
    assert identities()[0] != windowed


EPOCH = date(1970, 1, 1).toordinal() * 86_400 * 10**9
KINDS = {
    "text": [day.isoformat() for day in DAYS],
    "date32": pa.array(DAYS, pa.date32()),
    "date64": pa.array(DAYS, pa.date64()),
    "nanoseconds": pa.array([d.toordinal() * 86_400 * 10**9 - EPOCH + 1 for d in DAYS], pa.timestamp("ns")),
    "zone": pa.array([datetime(d.year, d.month, d.day, 1, tzinfo=UTC) for d in DAYS], pa.timestamp("ms", "Asia/Tokyo")),
    "dictionary": pa.array([day.isoformat() for day in DAYS]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_of_date_in_parquet_is_read(tmp_path, kind):
    column = pa.array(KINDS[kind]) if isinstance(KINDS[kind], list) else KINDS[kind]
    pq.write_table(pa.table({"text": [str(day) for day in DAYS], "when": column}), tmp_path / "a.parquet")
    assert sorted(texts(tmp_path / "a.parquet", date_column="when", window_days=2)) == ["2026-11-09", "2026-11-10"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_documents_are_read_day_by_day_and_those_outside_are_counted(write, name):
    path = write(name, ROWS)
    for shuffle in (True, False):
        corpus = Corpus(TextConfig(source=str(path), date_column="when", window_days=4, shuffle_documents=shuffle))
        days = [document.day for document in corpus.documents()]
        assert days == sorted(days)
        assert set(days) == set(DAYS[-4:])
        assert corpus.n_outside == 36


def test_a_sample_has_only_documents_of_the_window(write):
    found = texts(write("a.jsonl", ROWS), date_column="when", window_days=4, max_tokens=10)
    assert sorted(found) == sorted(row["text"] for row in ROWS if date.fromisoformat(row["when"]) in DAYS[-4:])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "b"}, "line 2: the object has no key 'when'"),
        ({"text": "b", "when": None}, "line 2: text.date_column 'when' holds nothing"),
        ({"text": "b", "when": "soon"}, "line 2: text.date_column 'when' holds 'soon'"),
    ],
)
def test_a_row_without_a_date_is_named(write, row, reason):
    path = write("a.jsonl", [ROWS[0], row])
    with pytest.raises(InputError, match=rf"a\.jsonl, {reason}"):
        texts(path, date_column="when", window_days=1)


def test_columns_without_dates_and_files_without_columns_are_refused_before_work_starts(write, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    number = write("a.parquet", [{"text": "a", "when": 3}])
    for source, reason in ((number, "'when' holds int64, not dates"), (tmp_path / "a.txt", r"a\.txt is plain text")):
        with pytest.raises(InputError, match=reason):
            check_corpus(TextConfig(source=str(source), date_column="when"))


def test_a_row_of_parquet_is_named_by_its_number_in_the_file(write):
    rows = [{"text": "a", "when": "2026-11-20"}] * 300 + [{"text": "b", "when": "never"}]
    with pytest.raises(InputError, match=r"a\.parquet, row 301: text\.date_column"):
        texts(write("a.parquet", rows), date_column="when", window_days=1)


def test_a_dataset_of_the_hub_has_its_window_by_column_only(monkeypatch):
    library = types.ModuleType("datasets")
    library.load_dataset = lambda name, split, streaming: iter(ROWS)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setitem(__import__("sys").modules, "datasets", library)
    assert len(texts("owner/corpus", date_column="when", window_days=4)) == 24
    for refuse in (Corpus, check_corpus):
        with pytest.raises(InputError, match=r"dataset owner/corpus has no paths with dates.*text\.date_column"):
            refuse(TextConfig(source="owner/corpus", window_days=4))


@pytest.mark.parametrize("dated_by", ["path", "column"])
def test_a_day_later_only_the_oldest_days_segments_go_and_only_the_newest_days_come(write, tmp_path, bytes_model, dated_by):
    def segments(n_read):
        run = tmp_path / f"{n_read}"
        for day in DAYS[:n_read]:  # with too few tokens for a cut at the end of each file
            rows = [{"text": f"{day} {i} " + "x" * (i % 50), "when": str(day)} for i in range(40)]
            write(f"{n_read}/in/{day}.jsonl", rows)
        settings = {"context_length": 8, "eval_fraction": 0.4, "segment_tokens": 10**9, "window_days": 4}
        column = "when" if dated_by == "column" else None
        text = {"source": str(run / "in"), "date_column": column, **settings}
        tokenize(PipelineConfig(model={"name": str(bytes_model)}, text=text), str(run / "out"), silent)
        manifest = read_manifest(str(run / "out"))
        hashes = iter(pq.read_table(run / "out/sequences.parquet")["hash"].to_pylist())
        found = [tuple(next(hashes) for _ in range(n)) for split in ("train", "eval") for n in manifest["segments"][split]]
        return found, manifest["window"]

    (before, window), (after, _) = segments(6), segments(7)
    assert len(before) == len(after) == 8
    assert len(set(before) & set(after)) == 6
    left_out = 80 if dated_by == "column" else None
    assert window == {"first_day": "2026-11-03", "last_day": "2026-11-06", "documents_left_out": left_out}
