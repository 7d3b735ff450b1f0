"""What may go wrong while bytes are parsed, and how it is told in a sentence."""

import struct
import zipfile

import pyarrow as pa
from safetensors import SafetensorError

DAMAGE: tuple[type[Exception], ...] = (
    EOFError,
    ValueError,
    TypeError,
    SyntaxError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    AttributeError,
    struct.error,
    pa.ArrowException,
    SafetensorError,
    zipfile.BadZipFile,
)
"""What parsers raise at bytes that are damaged or lie about themselves."""
FAULTS: tuple[type[Exception], ...] = (OSError, *DAMAGE)
"""The same, and what the system raises; Arrow's own errors of files are OSErrors too."""


def reason_of(error: BaseException) -> str:
    """An error in one line, without what libraries add of their own sources."""
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    text = str(error).partition(". Detail: [")[0]
    said = " ".join(text.split())
    said = said if len(said) <= _SAID else f"{said[:_SAID]}..."
    return said.rstrip(".") or type(error).__name__


_SAID = 300
