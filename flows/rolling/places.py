"""Where the rows of a training lie that do not stay, beside the results that do."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.activations.windows import WindowUris, shards_of
from tasks.storage.artifacts import identity, root_of, to_json
from tasks.storage.objects import open_store

CONSUMED = "consumed.json"
"""Beside an SAE whose training rows are gone: which shards they were."""
_LAKES, _WINDOWS = "lakes", "windows"


@dataclass(frozen=True, slots=True)
class LakePlaces:
    """The folders of one SAE's training; nobody else reads or writes there."""

    sae: str
    """URI of the SAE's directory."""

    @property
    def uri(self) -> str:
        """A root of its own, for rows that do not stay."""
        return f"{root_of(self.sae)}/{_LAKES}/{self._name}"

    def pool(self, shards: str) -> str:
        """Where shards lie that would lie in ``shards`` if they stayed: by its name, with the same bytes."""
        return f"{self.uri}/shards/{posixpath.basename(shards)}"

    def activations(self, activations: str) -> str:
        """The directory that lists all of them."""
        return f"{self.uri}/activations/{posixpath.basename(activations)}"

    @property
    def windows(self) -> WindowUris:
        """The windows of rows that do not stay."""
        return WindowUris(f"{self.uri}/{_WINDOWS}/{self._name}")

    @property
    def windows_of_kept(self) -> WindowUris:
        """The windows of rows that lie where they stay."""
        return WindowUris(f"{root_of(self.sae)}/{_WINDOWS}/{self._name}")

    def is_empty(self) -> bool:
        """Whether nothing is there any more, or yet."""
        root = open_store(root_of(self.sae))
        return not any(next(root.list(prefix), None) is not None for prefix in self._prefixes)

    def consumed(self, activations: str) -> list[Mapping[str, Any]]:
        """The shards that a training has read here, by window and hook; none where nothing is to be deleted, or no more."""
        whole = shards_of(self.activations(activations))
        if whole:
            return [whole]
        return [shards_of(self.windows.uri(number)) for number in self.windows.there()]

    def remember(self, activations: str, windows: Sequence[Mapping[str, Any]]) -> None:
        """Write beside the SAE which shards it was trained on, unless that was done.

        Args:
            activations: of which they were.
            windows: what ``consumed`` gives.
        """
        told = {"activations": identity(activations), "windows": list(windows)}
        open_store(self.sae).put_if_absent(CONSUMED, to_json(told))

    def clear(self) -> None:
        """Delete all that is there."""
        root = open_store(root_of(self.sae))
        found = {key.rpartition("/")[0] for key in self._keys(self._prefixes[1])}
        for folder in [f"{_LAKES}/{self._name}", *sorted(found)]:
            root.delete_folder(folder)

    @property
    def _name(self) -> str:
        return posixpath.basename(self.sae)

    @property
    def _prefixes(self) -> tuple[str, str]:
        return f"{_LAKES}/{self._name}/", f"{_WINDOWS}/{self._name}."

    def _keys(self, prefix: str) -> list[str]:
        return [info.key for info in open_store(root_of(self.sae)).list(prefix)]
