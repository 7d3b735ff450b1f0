"""What `saemill settings` says: every setting's name, kind, default, bounds and meaning, as the JSON schema has them."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console

from flows.config import PipelineConfig
from tasks.config_errors import unknown
from tasks.errors import InputError

_KINDS = {"integer": "whole number", "number": "number", "string": "text", "null": "empty"}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """One setting."""

    name: str
    """As --set names it, such as 'sae.k'."""
    kind: str
    default: Any
    bounds: str
    choices: list[str]
    """All values that it may have, where these can be counted."""
    meaning: str


def listed(group: str = "") -> list[SettingInfo]:
    """The settings of a group, the one of that name, or all.

    Raises:
        InputError: there is no such group or setting.
    """
    found = [setting for setting in _settings() if not group or f"{setting.name}.".startswith(f"{group}.")]
    if not found:
        raise InputError(unknown(group, "." not in group, PipelineConfig))
    return found


def show(settings: list[SettingInfo], console: Console) -> None:
    """A paragraph per setting on a terminal; elsewhere a line: name, kind, default, bounds and meaning between tabs."""
    for setting in settings:
        default, bounds = json.dumps(setting.default), f", {setting.bounds}" if setting.bounds else ""
        if not console.is_terminal:
            typer.echo("\t".join((setting.name, setting.kind, default, setting.bounds, setting.meaning)))
            continue
        console.print(setting.name, style="bold", end="", markup=False, highlight=False)
        console.print(f"  {setting.kind}{bounds}; default {default}", style="dim", markup=False, highlight=False)
        typer.echo(textwrap.indent(textwrap.fill(setting.meaning, min(console.width, 120) - 4), "    "))


def completed(incomplete: str) -> list[str]:
    """What a shell may put for the beginning of NAME=VALUE: names, and behind one its values where these can be counted."""
    name, equals, _ = incomplete.partition("=")
    if not equals:
        return [f"{setting.name}=" for setting in _settings() if setting.name.startswith(name)]
    found = [f"{name}={value}" for setting in _settings() if setting.name == name for value in setting.choices]
    return [candidate for candidate in found if candidate.startswith(incomplete)]


def _settings() -> Iterator[SettingInfo]:
    schema = PipelineConfig.model_json_schema()
    for name, field in schema["properties"].items():
        reference = field.get("$ref") or next((part["$ref"] for part in field.get("allOf", ()) if "$ref" in part), None)
        if reference is None:
            yield _described(name, field)
            continue
        group = schema["$defs"][reference.rpartition("/")[2]]
        for inner, setting in group["properties"].items():
            yield _described(f"{name}.{inner}", setting)


def _described(name: str, field: Mapping[str, Any]) -> SettingInfo:
    parts = field.get("anyOf", [field])
    kinds = list(dict.fromkeys(_kind(part) for part in parts))
    bounds = next((told for part in parts if (told := _bounds(part))), "")
    choices = [choice for part in parts for choice in _choices(part)]
    meaning = " ".join(str(field.get("description", "")).split())
    return SettingInfo(name, " or ".join(kinds), field.get("default"), bounds, choices, meaning)


def _kind(part: Mapping[str, Any]) -> str:
    if "$ref" in part:
        return "group of settings"
    if part.get("type") == "array":
        return f"list, each {_kind(part['items'])}"
    return " or ".join(_choices(part)) or _KINDS[part["type"]]


def _choices(part: Mapping[str, Any]) -> list[str]:
    values = [True, False] if part.get("type") == "boolean" else part.get("enum", ())
    return [json.dumps(value) if isinstance(value, bool) else value for value in values]


def _bounds(part: Mapping[str, Any]) -> str:
    inner = part.get("items", part) if part.get("type") == "array" else part
    return ", ".join(f"{words} {_number(inner[name])}" for name, words in _BOUNDS.items() if name in inner)


def _number(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
