"""Triton's interpreter, made fast enough for tests."""

from typing import Any

import pytest


def patch_language_once(patch: pytest.MonkeyPatch) -> None:
    """Put numpy in place of Triton's language once; the interpreter (3.7.1) does so at each call of each function.

    The top k of three rows took 2.3 s so, and take .3 s.

    The operations of the language are then numpy's for good: for a process that compiles nothing.
    """
    from triton import language
    from triton.runtime import interpreter

    put, done = interpreter._patch_lang, set[frozenset[str]]()

    def put_once(function: Any) -> Any:
        used = frozenset(name for name, value in function.__globals__.items() if value is language or value is language.core)
        if used not in done:
            done.add(used)
            put(function)
        return interpreter._LangPatchScope()  # of nothing: there is nothing to restore

    patch.setattr(interpreter, "_patch_lang", put_once)
