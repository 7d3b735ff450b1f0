"""YAML as people mean it: the core schema of YAML 1.2, whose plain words are what they look like.

PyYAML reads YAML 1.1, in which ``yes`` is true, ``010`` is eight, ``12:30`` is 750, ``2026-11-20`` is a date, and of a name
given twice the first is lost. Here ``yes`` and ``12:30`` are text, ``010`` is ten, dates are text, and a name given twice is
refused. The core schema: https://yaml.org/spec/1.2.2/#103-core-schema

Whatever is given, reading ends soon and in little memory: sizes, depth, digits and what aliases expand to have limits, a
thousand times what a configuration needs.
"""

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tasks.errors import InputError
from tasks.secret import masked

MOST_BYTES = 2**16
MOST_DEPTH = 32
MOST_NODES = 100_000
"""Values in all, each alias counted as what it stands for."""
MOST_DIGITS = 64

_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
# What is not text or a number to a computer: control characters but tab and line ends, and halves of surrogate pairs.
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that a YAML file holds, by name.

    Raises:
        InputError: it is not there, cannot be read, is too large or is no YAML, or holds something else.
    """
    data = _bytes_of(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"Configuration file {path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    try:
        values = parse(text)
    except ValueError as error:
        raise InputError(f"Configuration file {path} is not valid YAML: {error}.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"Configuration file {path} holds a {type(values).__name__}, but must hold settings by name.")
    return values


def parse(text: str) -> Any:
    """What a YAML text holds: None, bool, int, float, str, and lists and dictionaries of these, whose keys are text.

    Raises:
        ValueError: it is no YAML of the core schema, or beyond a limit; the message, without a full stop, says where.
    """
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(_told(error)) from None


def parse_value(text: str) -> Any:
    """What the text behind ``NAME=`` stands for: a list, group or quoted text as YAML, else a plain word as in YAML.

    Nothing within a plain word means anything more: ``*.parquet`` is no alias, and ``layer 8 #2`` holds no comment.

    Raises:
        ValueError: as ``parse``.
    """
    word = text.strip()
    if "\n" in word or word[:1] in ("[", "{", "'", '"'):
        return parse(word)
    kinds = ((_NULL, "null"), (_BOOL, "bool"), (_INT, "int"), (_FLOAT, "float"))
    kind = next((kind for pattern, kind in kinds if pattern.match(word)), "str")
    try:
        return _scalar(ScalarNode(f"tag:yaml.org,2002:{kind}", word))
    except yaml.YAMLError as error:
        raise ValueError(_told(error)) from None


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with the core schema's words in place of YAML 1.1's, and with limits."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - none of YAML 1.1's; those of the core schema are added below

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._measured: dict[int, tuple[int, int] | None] = {}
        """By node; None while what lies in it is measured."""

    @override
    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._depth += 1
        if self._depth > MOST_DEPTH:  # each level is a call of this function: 5,000 of them would end Python's stack
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"more than {MOST_DEPTH} levels", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    @override
    def construct_document(self, node: Node) -> Any:
        self._measure(node)
        return self._value(node)

    def _measure(self, node: Node) -> tuple[int, int]:
        """How many values a node stands for, and in how many levels; ten lines of aliases of aliases can stand for billions.

        An alias comes after what it stands for, which then is measured already: this goes as deep as the text, no deeper.
        """
        if id(node) in self._measured:
            known = self._measured[id(node)]
            if known is None:
                raise _problem(node, "an alias of what it lies in")
            return known
        self._measured[id(node)] = None
        inner = [self._measure(child) for child in _children(node)]
        size, depth = 1 + sum(size for size, _ in inner), 1 + max((depth for _, depth in inner), default=0)
        if size > MOST_NODES or depth > MOST_DEPTH:
            raise _problem(node, f"more than {MOST_NODES:,} values, or than {MOST_DEPTH} levels of them")
        self._measured[id(node)] = size, depth
        return size, depth

    def _value(self, node: Node) -> Any:
        if isinstance(node, MappingNode):
            _require_tag(node, "map")
            return self._mapping(node)
        if isinstance(node, SequenceNode):
            _require_tag(node, "seq")
            return [self._value(item) for item in node.value]
        assert isinstance(node, ScalarNode)
        return _scalar(node)

    def _mapping(self, node: MappingNode) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in node.value:
            key = name.value if isinstance(name, ScalarNode) else None
            if key is None or _tag(name) not in ("str", "int", "float", "bool", "null"):
                raise _problem(name, "a name that is not text")
            if key in found:
                raise _problem(name, f"{shown(key)} is given twice")
            found[_text(name)] = self._value(value)
        return found


for _word, _pattern, _first in (
    ("null", _NULL, ["~", "n", "N", ""]),
    ("bool", _BOOL, list("tTfF")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_word}", _pattern, _first)


def shown(value: object, most: int = 80) -> str:
    """A value as an error shows it: on one line, cut where it is long."""
    if isinstance(value, Mapping) and len(value) > most:
        return f"a group of {len(value):,} settings"
    if isinstance(value, (list, tuple)) and len(value) > most:
        return f"a list of {len(value):,} values"
    if isinstance(value, str):
        value = masked(value)[: 2 * most]  # masked before it is cut: a secret's end is what tells it
    text = masked(repr(value))
    return text if len(text) <= most else text[: most - 4] + " ..." + text[0] * (text[0] in "'\"")


def _bytes_of(path: Path) -> bytes:
    try:
        # Without waiting for a writer, should it be a pipe that nobody writes to.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            os.set_blocking(file.fileno(), True)
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"No such configuration file: {shown(str(path), 1_000)}. The examples are in configs/.") from None
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"Configuration file {shown(str(path), 1_000)} cannot be read: {reason}.") from None
    if len(data) > MOST_BYTES:
        raise InputError(
            f"Configuration file {path} has more than {MOST_BYTES:,} bytes, which is no file of settings. "
            "The examples are in configs/."
        )
    return data


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _tag(node: Node) -> str:
    return str(node.tag).removeprefix("tag:yaml.org,2002:")


def _require_tag(node: Node, tag: str) -> None:
    if _tag(node) != tag:
        raise _problem(node, f"the tag {shown(node.tag)}")


def _scalar(node: ScalarNode) -> Any:
    tag, text = _tag(node), _text(node)
    if tag == "str":
        return text
    if tag == "null" and _NULL.match(text):
        return None
    if tag == "bool" and _BOOL.match(text):
        return text.lower() == "true"
    if tag in ("int", "float") and len(text) > MOST_DIGITS:
        raise _problem(node, f"a number of {len(text):,} characters")
    if tag == "int" and _INT.match(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if tag == "float" and _FLOAT.match(text):
        return _number(text)
    raise _problem(node, f"the tag {shown(node.tag)}" if tag not in ("null", "bool", "int", "float") else f"no {tag}")


def _number(text: str) -> int | float:
    """1e6 is a million, exactly; with a point or a negative power it is a float."""
    # Decimal refuses powers of twenty digits, which float takes for infinite.
    if re.fullmatch(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE]\+?[0-9]{1,4}", text):
        value = Decimal(text)
        if value == 0 or (value.adjusted() < MOST_DIGITS and value == value.to_integral_value()):
            return int(value)
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _text(node: ScalarNode) -> str:
    text = str(node.value)
    # JSON writes what lies beyond 16 bits as two escapes.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    if _NO_TEXT.search(text):
        raise _problem(node, f"{shown(text)} holds a control character or half of a surrogate pair")
    return text


def _problem(node: Node, what: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


def _told(error: yaml.YAMLError) -> str:
    """PyYAML's error on one line, such as 'line 3, column 5: 'sae' is given twice'."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())
    what = f"{getattr(error, 'context', None) or ''} {problem}"
    return f"line {mark.line + 1}, column {mark.column + 1}: {' '.join(what.split())}"
