"""Of a checkpoint in several safetensors files, those that a model with fewer layers needs; others are not downloaded."""

import contextlib
import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError

from tasks.lm.files import ModelFiles
from tasks.lm.truncate import Truncation

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"


@contextlib.contextmanager
def needed_files(files: ModelFiles, short: Truncation) -> Iterator[ModelFiles]:
    """A folder of links to the files that hold what the shorter model has; ``files`` themselves if they are not several.

    Raises:
        OSError: the hub does not give a file.
        ValueError: the index is no JSON.
    """
    place = _Place(files)
    named = getattr(short.config, "transformers_weights", None)  # a file of another name than the usual ones
    index = place.get(INDEX) if place.has_parts and named is None else None
    found = {} if index is None else json.loads(index.read_text())
    files_of = found.get("weight_map", {})
    names = {files_of[tensor] for tensor in needed_tensors(files_of, short)}
    if not names or any(Path(name).name != name for name in names):
        yield files
        return
    with tempfile.TemporaryDirectory(prefix="saemill-weights-") as folder:
        for name in (CONFIG, *names):
            if (path := place.get(name)) is not None:  # else transformers says that it lacks
                os.symlink(path, Path(folder, name))
        kept = {tensor: name for tensor, name in files_of.items() if name in names}
        Path(folder, INDEX).write_text(json.dumps({"metadata": found.get("metadata", {}), "weight_map": kept}))
        yield ModelFiles(folder)


def needed_tensors(tensors: Iterable[str], short: Truncation) -> list[str]:
    """All but those of the layers that are cut off; all of them where it is not plain which list these belong to.

    A checkpoint's tensors may be called otherwise than the model's, as GPT-2's ``h.3`` is ``transformer.h.3``. What tells
    the list is its own name, and that it has no fewer layers than the model; more are there for predicting further tokens.
    """
    tensors, numbered = list(tensors), defaultdict(set)
    for tensor in tensors:
        if (found := _in_list(tensor)) is not None:
            numbered[found[0]].add(found[1])
    own = short.layers.rpartition(".")[2]
    lists = [name for name, layers in numbered.items() if name.rpartition(".")[2] == own and max(layers) + 1 >= short.of]
    if len(lists) != 1:
        return tensors
    return [name for name in tensors if (at := _in_list(name)) is None or at[0] != lists[0] or at[1] < short.kept]


def _in_list(tensor: str) -> tuple[str, int] | None:
    """The outermost list that a tensor's name lies in, and its place there."""
    found = re.match(r"(.*?)\.(\d+)\.", tensor)
    return None if found is None else (found[1], int(found[2]))


@dataclass(frozen=True, slots=True)
class _Place:
    """A model's folder, or its repository on the hub."""

    files: ModelFiles

    @property
    def has_parts(self) -> bool:
        """Whether the weights may lie in several files. On the hub that is seen from the index."""
        return self.files.gguf is None and not Path(self.files.location, WHOLE).exists()

    def get(self, name: str) -> Path | None:
        """A file, downloaded if need be; None where there is no such file."""
        if self.files.revision is None:
            path = Path(self.files.location, name)
            return path if path.is_file() else None
        try:
            return Path(huggingface_hub.hf_hub_download(self.files.location, name, revision=self.files.revision))
        except EntryNotFoundError:
            return None
