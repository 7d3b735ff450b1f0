"""Token ids as the strings that a reader sees, so that a row of tokens reads as the text does.

Byte-level vocabularies cut characters: an emoji is often three tokens, none of which is text by itself. Such a character
is shown whole at the token that completes it, the tokens before it are empty, and the strings still join to the text.
(But U+FFFD, where a text itself holds it, is not told from an unfinished character and dropped.)
"""

import functools
from collections.abc import Sequence

from tokenizers import Tokenizer

from tasks.errors import ArtifactError
from tasks.storage.objects import open_store, require

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class TokenStrings:
    """Strings of a vocabulary's tokens, as they read in the middle of a text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Decoders drop the space before the first token, and only there: so every token is decoded behind another.
        self._anchor: list[int] = tokenizer.encode("a", add_special_tokens=False).ids
        self._anchor_text = self._decode(self._anchor)
        self._known: dict[int, str] = {}

    def of_sequence(self, token_ids: Sequence[int]) -> list[str]:
        """One string per token; joined they are the text."""
        strings = [self._of_token(token_id) for token_id in token_ids]
        start = 0
        while start < len(strings):
            stop = start
            while stop < len(strings) and _UNFINISHED in strings[stop]:
                stop += 1
            strings[start:stop] = self._of_run(token_ids[start:stop])
            start = stop + 1
        return strings

    def of_token(self, token_id: int) -> str:
        """A token by itself; bytes that are no character are written out, like ``\\xf0\\x9f``."""
        text = self._of_token(token_id)
        if _UNFINISHED not in text:
            return text
        symbols = self._tokenizer.id_to_token(token_id) or ""
        return "".join(_written(_BYTES.get(symbol, symbol)) for symbol in symbols)

    def _of_token(self, token_id: int) -> str:
        if token_id not in self._known:
            self._known[token_id] = self._behind_anchor([token_id])
        return self._known[token_id]

    def _of_run(self, token_ids: Sequence[int]) -> list[str]:
        """Strings of tokens that all hold parts of characters: what each adds to the characters finished so far."""
        strings: list[str] = []
        finished = ""
        for n in range(1, len(token_ids) + 1):
            text = self._behind_anchor(list(token_ids[:n])).replace(_UNFINISHED, "")
            strings.append(text[len(finished) :])
            finished = text if len(text) > len(finished) else finished
        return strings

    def _behind_anchor(self, token_ids: list[int]) -> str:
        text = self._decode(self._anchor + token_ids)
        return text[len(self._anchor_text) :] if text.startswith(self._anchor_text) else self._decode(token_ids)

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=False)
        return text


@functools.lru_cache(maxsize=1)
def load_strings(tokens: str) -> TokenStrings:
    """The strings of a tokens directory's tokenizer; kept for the next call, since reading it takes 0.3 s.

    Raises:
        ArtifactError: its tokenizer is missing or damaged.
    """
    data = require(open_store(tokens), "tokenizer/tokenizer.json")
    try:
        return TokenStrings(Tokenizer.from_buffer(data))
    except ValueError as error:
        where = f"{tokens}/tokenizer/tokenizer.json"
        raise ArtifactError(f"{where} is damaged: {error}. Delete {tokens} and run again.") from None


def _byte_symbols() -> dict[str, int]:
    """The byte that each symbol of a byte-level vocabulary stands for: printable ones themselves, others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_symbols()


def _written(byte: int | str) -> str:
    if isinstance(byte, str):
        return byte
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"
