"""Conversations as text, by the tokenizer's own chat template."""

from datetime import date
from typing import Any

from tasks.errors import InputError
from tasks.text.messages import Message

# Templates such as Llama 3.1's write today's date; then every day would give other tokens. This is the day that Llama's
# falls back to. Directives that depend on the locale are spelled out in English by Python unless a locale is set.
_TODAY = date(2024, 7, 26)
_DIRECTIVES = "aAbBdmyYHMSIpj"


class ChatTemplate:
    """A tokenizer's chat template, always rendered on the same day.

    Raises:
        InputError: the tokenizer has none.
    """

    def __init__(self, tokenizer: Any, prefix: int | None) -> None:
        try:
            template: str = tokenizer.get_chat_template()
        except ValueError:
            raise InputError(
                "text.chat_column is set, but the model's tokenizer has no chat template. "
                "Name a model that was trained on conversations, or put the text in text.column."
            ) from None
        self._template = _on_a_fixed_day(template)
        self._tokenizer = tokenizer
        # Packing puts this token before every sequence; the template may put it before every conversation too.
        self._prefix = "" if prefix is None else tokenizer.convert_ids_to_tokens(prefix)

    def __call__(self, messages: list[Message], where: str) -> str:
        """The text of a conversation, without the prefix that packing adds.

        Args:
            messages: as ``messages_of`` gives them, at least one.
            where: names file and row in errors.

        Raises:
            InputError: the template refuses the messages, for their roles or their order.
        """
        try:
            text = self._tokenizer.apply_chat_template(messages, chat_template=self._template, tokenize=False)
        except Exception as error:  # a template is a program: jinja2's errors, a range too long, a division by zero ...
            reason = " ".join(str(error).split()).rstrip(".")
            raise InputError(f"{where}: the model's chat template refuses the messages: {reason}.") from None
        return str(text).removeprefix(self._prefix)


def _on_a_fixed_day(template: str) -> str:
    if "strftime_now" not in template:
        return template
    # transformers lets no function in, but a macro hides its strftime_now. The empty expression keeps the line end, if
    # any, that the template begins with: one right behind a block would be trimmed.
    filled = "".join(f".replace('%{d}', '{_TODAY.strftime('%' + d)}')" for d in _DIRECTIVES)
    return f"{{% macro strftime_now(format) %}}{{{{ format{filled} }}}}{{% endmacro %}}{{{{ '' }}}}{template}"
