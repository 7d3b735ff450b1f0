"""What is said of a configuration that is refused: a sentence per mistake, with what was meant where that can be guessed."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tasks.errors import InputError
from tasks.yaml_file import shown

Group = TypeVar("Group", bound=BaseModel)

MOST_TOLD = 5
"""Mistakes that are told in full; of a thousand, the rest are counted."""
_BOUNDS = {
    "greater_than_equal": ("ge", "must be at least"),
    "greater_than": ("gt", "must be above"),
    "less_than_equal": ("le", "must be at most"),
    "less_than": ("lt", "must be below"),
}
_KINDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text (in quotes, where it looks like something else)",
    "list_type": "must be a list, such as [a, b]",
    "tuple_type": "must be a list, such as [a, b]",
    "model_type": "must be a group of settings",
    "dataclass_type": "must be a group of settings",
    "dict_type": "must be a group of settings",
}


def validated(kind: type[Group], called: str, **values: Any) -> Group:
    """A group of settings of what somebody gave, whose mistakes are told under the name by which it was given.

    Raises:
        InputError: a value is wrong.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise InputError(f"{called}: {told(mistakes_of(error), kind)}") from None


def mistakes_of(error: ValidationError) -> Sequence[Mapping[str, Any]]:
    """What pydantic found wrong.

    Raises:
        InputError: pydantic cannot show it.
    """
    try:
        return error.errors(include_url=False)
    except UnicodeError:
        raise InputError("A name or a value holds half of a surrogate pair, which is no text.") from None


def told(errors: Sequence[Mapping[str, Any]], root: type[BaseModel]) -> str:
    """Pydantic's errors as sentences."""
    sentences = [_sentence(error, root) for error in errors[:MOST_TOLD]]
    if len(errors) > MOST_TOLD:
        sentences.append(f"And {len(errors) - MOST_TOLD:,} more.")
    return " ".join(sentences)


def unknown(name: str, holds_group: bool, root: type[BaseModel]) -> str:
    """What is said of a name that no setting has, such as 'sae.kk' or 'k'."""
    group = _home(name)
    guesses = _guesses(name, holds_group, root)
    if guesses:
        return f"Unknown setting {shown(name)}; did you mean {' or '.join(guesses)}?"
    siblings = sorted(names_in(_group_at(group, root)))
    return f"Unknown setting {shown(name)}; allowed here: {', '.join(siblings)}."


def _sentence(error: Mapping[str, Any], root: type[BaseModel]) -> str:
    context = error.get("ctx", {})
    where = ".".join(str(part) for part in (*error["loc"], *context.get("within", ())))
    kind, found = error["type"], context["found"] if "found" in context else error["input"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return unknown(where, isinstance(found, Mapping), root)
    if kind == "value_error":
        sentence = str(context["error"])
        return f"{where} is {shown(found)} but {sentence}." if sentence.startswith("must ") else sentence
    return f"{where} is {shown(found)} but {_must(kind, context, str(error['msg']))}."


def _must(kind: str, context: Mapping[str, Any], message: str) -> str:
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        bound = context[name]
        return f"{words} {bound:,}" if isinstance(bound, int) else f"{words} {bound:g}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "too_short":
        return f"must name at least {context['min_length']}"
    if kind == "not_meant":
        return str(context["told"])
    return _KINDS.get(kind, message.replace("String should", "must").replace("Input should", "must"))


def _guesses(name: str, holds_group: bool, root: type[BaseModel]) -> list[str]:
    """At most three names that may have been meant, the likeliest first."""
    groups = {group: inside for group, inside in _groups(root)}
    if holds_group and "." not in name:
        return difflib.get_close_matches(name, groups, 2, 0.6)
    known = [f"{group}.{inner}" for group, inside in groups.items() for inner in inside]
    known += [inner for inner in names_in(root) if inner not in groups]
    scores = {candidate: _alike(name[:100], candidate) for candidate in known}
    best = max(scores.values())
    likely = [candidate for candidate in known if scores[candidate] >= best - 0.2]
    found = sorted(likely, key=scores.__getitem__, reverse=True)
    # Of equal leaves, the one in the group that was named is meant.
    beside = {_leaf(candidate) for candidate in found if _home(candidate) == _home(name)}
    fit = [candidate for candidate in found if _home(candidate) == _home(name) or _leaf(candidate) not in beside]
    return fit[:3] if best >= 0.72 else []


def _home(name: str) -> str:
    return name.rpartition(".")[0]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _alike(name: str, candidate: str) -> float:
    """How much two names are alike: their last parts, and to tell equals apart, their groups."""
    return _ratio(_leaf(name), _leaf(candidate)) + 0.1 * _ratio(_home(name), _home(candidate))


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a.lower().replace("-", "_"), b).ratio()


def _groups(root: type[BaseModel]) -> Iterator[tuple[str, list[str]]]:
    for name, field in root.model_fields.items():
        names = list(names_in(field.annotation))
        if names:
            yield name, names


def names_in(group: Any) -> list[str]:
    """Names of a group's settings, in order; none where it is no group but a value."""
    if is_dataclass(group):
        return [field.name for field in fields(group)]
    return list(getattr(group, "model_fields", ()))


def _group_at(name: str, root: type[BaseModel]) -> Any:
    group: Any = root
    for part in name.split(".") if name else ():
        if part not in getattr(group, "model_fields", ()):
            return root
        group = group.model_fields[part].annotation
    return group
