"""A document, and how one is made of a row of named values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from tasks.errors import InputError
from tasks.text.config import TextConfig
from tasks.text.dates import day_of
from tasks.text.messages import Render, messages_of


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus."""

    text: str
    title: str
    """What names it in the report: its title columns, joined by ', '."""
    source: str
    """Name of the file or dataset that it comes from."""
    day: date | None = None
    """Its date, where the corpus is read by dates."""


class Form:
    """Which columns make a document, and how."""

    def __init__(self, config: TextConfig, render: Render) -> None:
        self._render = render
        self._titles = config.title_columns
        self.date_column = config.date_column
        self.is_chat = config.chat_column is not None
        self.column = config.chat_column or config.column
        """The one that holds the text or the conversation."""
        self.setting = "text.chat_column" if self.is_chat else "text.column"
        named = [self.column, *config.title_columns, *([config.date_column] if config.date_column else [])]
        self.columns = list(dict.fromkeys(named))
        """All that are read."""

    def document(self, row: Mapping[str, Any], source: str, where: str, day: date | None) -> Document:
        """A document from named values; without text where there are null or no messages.

        Args:
            row: values by column; title columns may be absent.
            source: name of the file or dataset.
            where: names file and row in errors.
            day: its date, unless a column holds it.

        Raises:
            InputError: what should be the text, the messages or the date is something else.
        """
        value = row.get(self.column)
        text = self._conversation(value, where) if self.is_chat else self._text(value, where)
        titles = (row.get(name) for name in self._titles)
        title = ", ".join(encodable(str(value)) for value in titles if value is not None)
        if self.date_column is not None:
            day = day_of(row.get(self.date_column), self.date_column, where)
        return Document(encodable(text), title, source, day)

    def _text(self, value: Any, where: str) -> str:
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if value is None:
            value = ""
        if not isinstance(value, str):
            raise InputError(f"{where}: text.column {self.column!r} holds {type(value).__name__}, not text.")
        return value

    def _conversation(self, value: Any, where: str) -> str:
        messages = messages_of(value, self.column, where)
        return self._render(messages, where) if messages else ""


def encodable(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which JSON may spell but no tokenizer and no file takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
