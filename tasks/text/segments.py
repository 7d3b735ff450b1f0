"""Where packing begins anew, so that a change of the corpus changes few of its sequences.

Packed in one run, a document more at the beginning would shift every token behind it, and with that change every
sequence. So packing is cut, at places that follow from the text nearby and from nothing else (as in backup programs that
cut files by content): whatever is added, removed or left out elsewhere, the sequences between two cuts stay the same.

A cut drops the tokens that do not fill a sequence: half a sequence per split and segment in the mean. With sequences of
256 tokens and segments of 262,144, which cuts at the ends of files may halve, that is 0.1 to 0.2% of the tokens.
"""

import hashlib
from datetime import date

from tasks.text.documents import Document
from tasks.text.pack import fraction_of

_LARGE_FILE_SEQUENCES = 256


class Cuts:
    """Decides where to cut a stream of documents; tell it of every document that is packed, before and after.

    After a document of n tokens comes a cut with probability n / segment_tokens, drawn by the hash of its text; likewise
    at the end of a file, drawn by the hash of its documents, but always if it gave as much as 256 sequences. Between
    documents of different days there is always a cut.
    """

    def __init__(self, context_length: int, segment_tokens: int) -> None:
        self._large_file_tokens = _LARGE_FILE_SEQUENCES * context_length
        self._segment_tokens = segment_tokens
        self._source: str | None = None
        self._day: date | None = None
        self._file_tokens = 0
        self._file_hash = hashlib.sha256()

    def before(self, document: Document) -> bool:
        """Whether packing begins anew with this document, because a file or a day has ended."""
        ended = self._source is not None and document.source != self._source
        cut = document.day != self._day or (ended and self._cuts_at_end())
        if ended:
            self._file_tokens, self._file_hash = 0, hashlib.sha256()
        self._source, self._day = document.source, document.day
        return cut

    def after(self, sha256: str, n_tokens: int) -> bool:
        """Whether packing begins anew behind the document just packed.

        Args:
            sha256: of its text, as ``text_hash`` gives it.
            n_tokens: how many tokens it gave.
        """
        self._file_tokens += n_tokens
        self._file_hash.update(bytes.fromhex(sha256))
        # Other bits than those that decide the split, or cuts would fall mostly behind held-out documents.
        return fraction_of(sha256[16:32]) < n_tokens / self._segment_tokens

    def _cuts_at_end(self) -> bool:
        drawn = fraction_of(self._file_hash.hexdigest()[:16])
        return self._file_tokens >= self._large_file_tokens or drawn < self._file_tokens / self._segment_tokens
