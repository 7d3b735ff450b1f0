"""The files in which vLLM leaves hidden states: one per sequence, ``hidden_states`` [T, layers, d] and ``token_ids`` [T].

Its first versions wrote a file before they said where it is. Later ones write while they go on, and hold a lock on a file
beside it until it is whole (https://github.com/vllm-project/vllm/pull/37374). Both are read here.
"""

import fcntl
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tasks.errors import SaemillError

WRITTEN_WITHIN_S = 60.0
"""A sequence of 131,072 tokens at one layer of 8,192 is 2 GB in bfloat16, which a slow disk writes in 20 s."""
_POLL_S = 0.002


def read_hidden_states(path: str, token_ids: Sequence[int], layers: int, within_s: float = WRITTEN_WITHIN_S) -> Tensor:
    """Hidden states [T, layers, d] of one sequence, as soon as its file is whole.

    Args:
        path: of the file.
        token_ids: of the sequence, of which the file must be.
        layers: that were asked for.
        within_s: seconds that are waited.

    Raises:
        SaemillError: the file does not come, or is of another sequence or of other layers.
    """
    found = _read(Path(path), time.monotonic() + within_s)
    states, ids = found["hidden_states"], found["token_ids"]
    if states.ndim != 3 or states.shape[:2] != (len(token_ids), layers) or not torch.equal(ids, torch.tensor(token_ids)):
        raise SaemillError(
            f"vLLM wrote hidden states {list(states.shape)} of {len(ids)} tokens, where those of {len(token_ids)} others at "
            f"{layers} layers were asked for."
        )
    return states


def _read(path: Path, until: float) -> dict[str, Tensor]:
    is_locked = _await_lock(path.with_name(f"{path.name}.lock"), until)
    while True:
        try:
            found: dict[str, Tensor] = load_file(path)
        except (OSError, SafetensorError) as error:  # it is not there, or not whole yet
            if is_locked or time.monotonic() > until:
                raise SaemillError(_unwritten(path, error)) from None
        else:
            return found
        time.sleep(_POLL_S)


def _unwritten(path: Path, error: Exception) -> str:
    free = shutil.disk_usage(path.parent).free / 2**30
    return (
        f"vLLM has not written the hidden states of a sequence ({error}). There are {free:.1f} GiB left at {path.parent}: "
        "where that is too little, lower harvest.batch_sequences."
    )


def _await_lock(path: Path, until: float) -> bool:
    """Wait until whoever writes lets go of the lock, in that time; whether there is a lock."""
    try:
        file = path.open()
    except FileNotFoundError:
        return False
    with file:
        while not _is_free(file) and time.monotonic() <= until:
            time.sleep(_POLL_S)
    return True


def _is_free(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
