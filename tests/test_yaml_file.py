"""YAML that is read as people mean it, and that cannot hurt."""

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import InputError
from tasks.yaml_file import MOST_BYTES, parse, parse_value, read_settings
from tests.flows.spoilt_values import DOCUMENTS
from tests.sampled import examples


@pytest.mark.parametrize(
    "text, value",
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("True", True),
        ("false", False),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("12:30", "12:30"),
        ("1e6", 1_000_000),
        ("1.5e3", 1500),
        ("1e-3", 0.001),
        ("0e9", 0),
        ("1e9999", math.inf),
        ("1e99999999999999999999", math.inf),
        ("-1.5e99999999999999999999", -math.inf),
        ("0e99999999999999999999", 0.0),
        ("1.0", 1.0),
        (".5", 0.5),
        ("1_000", "1_000"),
        ("2026-11-20", "2026-11-20"),
        ("~", None),
        ("", None),
        ("<<", "<<"),
        ("=", "="),
    ],
)
def test_a_plain_word_is_what_it_looks_like(text: str, value: object) -> None:
    assert parse(text) == parse_value(text) == value
    assert type(parse(text)) is type(value)


@pytest.mark.parametrize(
    "text, told",
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: 'a' is given twice"),
        ("sae:\n  k: 1\n  k: 2", "line 3, column 3: 'k' is given twice"),
        ("{a: 1, 'a': 2}", "column 8: 'a' is given twice"),
        ("&a [*a]", "an alias of what it lies in"),
        ("[" * 5000, "more than 32 levels"),
        ("9" * 5000, "a number of 5,000 characters"),
        ("!!int x", "no int"),
        ("!!timestamp x", "timestamp"),
        ("!!python/object/apply:os.system [id]", "python/object"),
        ('"\\ud800"', "half of a surrogate pair"),
        ('"\\0"', "control character"),
        ("? [a]\n: b", "a name that is not text"),
        ("a: 1\n---\nb: 2", "single document"),
    ],
)
def test_what_is_no_settings_is_refused_with_its_place(text: str, told: str) -> None:
    with pytest.raises(ValueError, match="line ") as refused:
        parse(text)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_aliases_stand_for_what_they_name() -> None:
    assert parse("a: &x [1, 2]\nb: *x\nc: {d: *x}") == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}


def test_aliases_that_stand_for_billions_of_values_are_refused_at_once() -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1]"] + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 15)]
    with pytest.raises(ValueError, match="more than 100,000 values"):
        parse("\n".join(lines))


def test_aliases_that_stand_for_thousands_of_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="32 levels"):
        parse("a0: &a0 [1]\n" + "\n".join(f"a{i}: &a{i} [[[[*a{i - 1}]]]]" for i in range(1, 600)))


def test_every_hostile_document_is_read_or_refused_within_seconds(tmp_path: Path) -> None:
    path = tmp_path / "case.yaml"
    for document in DOCUMENTS:
        path.write_bytes(document)
        started = time.process_time()
        try:
            assert isinstance(read_settings(path), dict)
        except InputError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
        assert time.process_time() - started < 10, document[:40]


@pytest.mark.parametrize("text", ["*.parquet", "&x", "layer 8 #2", "#5", "a: b", "@x", "%d", "- x", "!!int 5", "`", "|"])
def test_a_word_given_on_the_command_line_means_itself(text: str) -> None:
    assert parse_value(text) == text


def test_lists_groups_and_quotes_on_the_command_line_are_yaml() -> None:
    assert parse_value("[1, a, '2']") == [1, "a", "2"]
    assert parse_value("{k: 3}") == {"k": 3}
    assert parse_value('"2024"') == "2024"
    with pytest.raises(ValueError, match="line 1"):
        parse_value("[1, 2")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(-1e15, 1e15)  # above, the text says more than the float
    | st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcé_-", max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=examples(100, 2000), deadline=None)
@given(JSON)
def test_json_is_read_as_json(value: object) -> None:
    assert parse(json.dumps(value)) == value


def test_files_that_are_none_of_settings_are_refused_by_name(tmp_path: Path) -> None:
    large, folder, utf16 = tmp_path / "large.yaml", tmp_path / "folder", tmp_path / "utf16.yaml"
    with open(large, "wb") as file:
        file.truncate(100 * 2**20)
    folder.mkdir()
    utf16.write_bytes("name: x".encode("utf-16"))
    expected = {large: f"more than {MOST_BYTES:,} bytes", folder: "cannot be read: Is a directory", utf16: "not UTF-8"}
    expected |= {tmp_path / "nowhere.yaml": "No such", Path("x" * 300): "File name too long", Path("a\0b"): "null byte"}
    for path, told in expected.items():
        with pytest.raises(InputError, match=told):
            read_settings(path)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "marked.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\r\n")
    assert read_settings(path) == {"name": "x"}
