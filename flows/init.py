"""What `saemill init` does: write a configuration for a model and corpus of one's own, proved fit to run."""

import shlex
from pathlib import Path

from flows.config import PipelineConfig, parse_config
from flows.draft import draft
from flows.preflight import check
from tasks.errors import InputError
from tasks.yaml_file import parse, shown


def written(model: str, source: str, column: str, hook: str | None, out: str | None, storage: str) -> Path:
    """Write the file, once its settings have passed all that is checked before a run, and say where it is.

    Raises:
        InputError: there is such a file already, it cannot be written, or model, corpus and storage are not fit for a run.
    """
    if out is not None:
        _require_free(Path(out))
    found = draft(model, source, column, hook, storage)
    path = Path(out if out is not None else f"{found.name}.yaml")
    _require_free(path)
    text = str(found).replace("saemill run FILE", f"saemill run {shlex.quote(str(path))}")
    check(_read_back(text))
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        _require_free(path)
    except OSError as error:
        raise InputError(
            f"{shown(str(path), 1_000)} cannot be written: {error.strerror}. Choose another file with --out."
        ) from None
    return path


def _read_back(text: str) -> PipelineConfig:
    try:
        return parse_config(parse(text))
    except ValueError as error:  # what was given holds what no file of settings can
        raise InputError(f"No file of settings can hold what was given: {error}. Use names of plain text.") from None


def _require_free(path: Path) -> None:
    try:
        there = path.exists() or path.is_symlink()
    except (OSError, ValueError) as error:  # a name too long, or with NUL
        raise InputError(f"{shown(str(path), 1_000)} cannot be written: {error}. Choose another file with --out.") from None
    if there:
        raise InputError(
            f"{shown(str(path), 1_000)} is there already, and is left as it is. Choose another file with --out."
        )
