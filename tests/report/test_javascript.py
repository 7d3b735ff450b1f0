import json

import pytest

from tasks.report.javascript import Strings, data_file
from tests.report.stages import HOSTILE


def value_of(script: bytes, name: str) -> object:
    text = script.decode("ascii")
    start, end = f'saemill.receive("{name}",', ");\n"
    assert text.startswith(start)
    assert text.endswith(end)
    return json.loads(text[len(start) : -len(end)])


def test_text_comes_back_as_it_went_in() -> None:
    assert value_of(data_file("index", HOSTILE), "index") == HOSTILE


def test_no_text_can_end_a_script_or_break_its_lines() -> None:
    script = data_file("index", HOSTILE)
    assert not {b"<", b">", b"&"} & {script[i : i + 1] for i in range(len(script))}
    assert script.count(b"\n") == 1
    assert script.isascii()


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        data_file("index", [float("nan")])


def test_a_string_is_stored_once() -> None:
    strings = Strings()
    assert strings.add_all([" the", " cat", " the"]) == [0, 1, 0]
    assert strings.table() == [" the", " cat"]
