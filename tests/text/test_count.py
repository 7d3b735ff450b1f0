"""A text counted without keeping anything, and its volume by the sizes of its files."""

import pyarrow.parquet as pq
import pytest

from flows.config import PipelineConfig
from tasks.errors import InputError
from tasks.progress import silent
from tasks.storage.artifacts import read_manifest
from tasks.text.tokenize import counted
from tasks.text.volume import text_bytes
from tests.composed import tokenize

ROWS = [{"text": f"Document {i} says {'ab' * (i % 7)} and é.", "who": f"<{i}>"} for i in range(3000)]
VOLUME = sum(len(row["text"].encode()) for row in ROWS)


@pytest.fixture
def config(write, bytes_model):
    def make(name="corpus.jsonl", rows=ROWS, **settings):
        text = {"source": str(write(name, rows)), "context_length": 16, "eval_fraction": 0.3}
        return PipelineConfig(model={"name": str(bytes_model)}, text=text | settings)

    return make


@pytest.mark.parametrize("settings", [{}, {"max_tokens": 1600}, {"segment_tokens": 500}])
def test_a_count_is_what_tokenizing_comes_to(config, tmp_path, settings):
    given = config(**settings)
    tokenize(given, str(tmp_path / "out"), silent)
    manifest = read_manifest(str(tmp_path / "out"))
    found = counted(given.text, given.model, 10**9)
    assert found.whole
    assert found.n_sequences == manifest["n_sequences"]
    assert found.specials == sum(manifest["separator_tokens"].values())
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    besides = {"manifest.json", "run.json"}
    assert found.stored_bytes == sum(path.stat().st_size for path in written if path.name not in besides)


def test_a_count_that_stops_early_says_how_much_it_has_read(config):
    given = config()
    found = counted(given.text, given.model, 1000)
    assert not found.whole
    assert 1000 <= sum(found.n_sequences.values()) * 16 < 60_000
    in_all = counted(given.text, given.model, 10**9)
    per_byte = sum(found.n_sequences.values()) / found.read_bytes
    assert per_byte == pytest.approx(sum(in_all.n_sequences.values()) / VOLUME, rel=0.03)


@pytest.mark.parametrize("column", ["text", "who"])
def test_the_volume_of_parquet_is_that_of_the_column(config, column):
    found = text_bytes(config("corpus.parquet", ROWS[:300], column=column).text)
    lengths = [len(row[column].encode()) for row in ROWS[:300]]
    # Each value has its length in four bytes before it, and a row group of two rows pages and a dictionary.
    assert sum(lengths) < found < 3 * sum(lengths) + 100 * 150


def test_the_volume_of_large_row_groups_is_close(write, tmp_path, config):
    source = tmp_path / "large.parquet"
    rows = [{"text": f"{i} " + "word " * 200} for i in range(500)]
    pq.write_table(pq.read_table(write("small.parquet", rows)), source)
    found = text_bytes(config().text.model_copy(update={"source": str(source)}))
    assert found == pytest.approx(sum(len(row["text"]) for row in rows), rel=0.02)


def test_the_volume_of_lines_is_the_size_of_their_file(config):
    given = config().text
    assert VOLUME < text_bytes(given) < 2.5 * VOLUME


def test_the_volume_of_a_dataset_on_the_hub_is_not_known(config):
    assert text_bytes(config().text.model_copy(update={"source": "someone/something"})) is None


def test_a_parquet_file_that_is_none_is_refused_in_a_sentence(config, tmp_path):
    source = tmp_path / "broken.parquet"
    source.write_bytes(b"PAR1 but nothing else")
    with pytest.raises(InputError, match=r"text\.source .*broken\.parquet cannot be read as Parquet: "):
        text_bytes(config().text.model_copy(update={"source": str(source)}))
