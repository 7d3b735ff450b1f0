"""What ``saemill match`` is asked for."""

import hashlib
from dataclasses import dataclass
from typing import Any

from tasks.encode.files import SplitName
from tasks.errors import InputError
from tasks.hook_roles import HookRoles
from tasks.identity.permute import weights_sha256
from tasks.identity.stored import TABLE, Line, read_line, require_name
from tasks.storage.artifacts import MANIFEST, require_manifest
from tasks.storage.objects import object_at, open_store, require
from tasks.storage.paths import shown

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchRequest:
    """Two versions of an SAE, and where they are compared; all places are URIs."""

    a: str
    b: str
    activations: str
    roles: HookRoles | None = None
    """The hooks that both read and rebuild; None: as they say."""
    split: SplitName = "eval"
    rows: int
    """Over which codes are compared, at most."""
    ceiling: str | None = None
    """An SAE that was trained as A was, with another seed."""
    previous: str | None = None
    """The match whose B is A, whose line of ids goes on; None: A's ids are minted."""
    name: str
    """Of the line, with which ids begin."""
    version_a: int
    version: int
    """Of B."""
    carry: str | None = None
    """A user's table of latents."""
    permute_out: str | None = None
    """Where B is written with matched latents at A's indices."""

    def content(self) -> dict[str, Any]:
        """All that decides the result, by content; but for where the copy goes, whose place the result tells.

        Raises:
            InputError: one of the inputs is not there.
            ArtifactError: one is unfinished.
        """
        require_manifest(self.activations)
        return {
            "format_version": FORMAT_VERSION,
            "a_sha256": weights_sha256(self.a),
            "b_sha256": weights_sha256(self.b),
            "activations_sha256": _sha256(self.activations, MANIFEST),
            "roles": None if self.roles is None else self.roles.to_json(),
            "row_split": self.split,
            "rows": self.rows,
            "ceiling_sha256": None if self.ceiling is None else weights_sha256(self.ceiling),
            "previous_sha256": None if self.previous is None else _sha256(self.previous, TABLE),
            "name": self.name,
            "version_a": self.version_a,
            "version": self.version,
            "carry_sha256": None if self.carry is None else _sha256_of_file(self.carry),
            "permute_out": self.permute_out,
        }


def line_before(
    a: str, previous: str | None, name: str | None, version_a: int | None, version: int | None
) -> tuple[Line | None, str, int, int]:
    """The line that goes on, or None; its name; and the versions of A and of B.

    Args:
        a: URI of A.
        previous: URI of the match whose B is A.
        name: that is asked for; None: that of the line, or of A's directory.
        version_a: of A; None: as the line says, or 1.
        version: of B; None: the next one.

    Raises:
        InputError: they do not fit together.
        ArtifactError: the match is damaged.
    """
    line = None if previous is None else read_line(previous)
    if line is not None and line.sae_sha256 != weights_sha256(a):
        raise InputError(
            f"--previous is {previous}, which ends with another SAE than {a}: the first SAE must be the one whose "
            "latents have ids there, or the permuted copy of it that was written."
        )
    if line is not None and (name not in (None, line.name) or version_a not in (None, line.version)):
        raise InputError(
            f"--previous is {previous}, a line called {line.name} that ends with version {line.version}; leave out --name "
            "and --version-a, or give these."
        )
    first = line.version if line is not None else version_a or 1
    last = first + 1 if version is None else version
    if last <= first:
        raise InputError(f"--version is {last}, but must be above {first}, the version of {a}.")
    called = line.name if line is not None else require_name(name) if name is not None else _name_of(a)
    return line, called, first, last


def _name_of(uri: str) -> str:
    """A name made of a directory's, such as 'demo' of saes/demo-0123456789ab."""
    folder = open_store(uri).uri.rpartition("/")[2]
    head, _, tail = folder.rpartition("-")
    plain = head if head and len(tail) == 12 else folder
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in plain).strip("-_")
    return kept or "sae"


def _sha256(uri: str, key: str) -> str:
    return hashlib.sha256(require(open_store(uri), key)).hexdigest()


def _sha256_of_file(uri: str) -> str:
    try:
        return hashlib.sha256(object_at(uri).get("")).hexdigest()
    except OSError:
        raise InputError(
            f"--carry is {shown(uri)}, which is no file that can be read; give a Parquet or CSV file."
        ) from None
