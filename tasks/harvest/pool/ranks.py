"""What the processes do together that hold one model between them, each its part of every layer. No Ray.

    rank 0       tells the others a batch's tokens -> forward pass -> its activations
    all others   wait for tokens                   -> forward pass

They are of one machine, and meet through a file. In a forward pass they wait for each other: where one of them fails midway,
the others cannot go on, and all have to be started again.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from tasks.errors import InputError, SaemillError
from tasks.lm.attention import choose_attention
from tasks.lm.config import ModelConfig
from tasks.lm.forward import random_tokens
from tasks.lm.hooks import capture
from tasks.lm.load import load_model
from tasks.lm.parallel import is_cut, require_even
from tasks.out_of_memory import is_out_of_memory
from tasks.storage.faults import reason_of

_FOREVER = timedelta(days=365)
"""Ranks wait for rank 0 while it has no shard. Who goes is noticed otherwise: its connections end, and Ray says so."""
_PROBE = (2, 8)
"""Sequences and tokens of the first pass."""
_DIFFER = 0.1
"""Ranks add up the same numbers, so what is whole differs by rounding among them; parts of it differ as a whole."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A process's place among those that hold a model."""

    rank: int
    n_ranks: int
    meeting: str
    """A name that nobody else meets by."""


class RankLostError(SaemillError):
    """A forward pass did not come to its end on all ranks."""


class RanksOutOfMemoryError(SaemillError):
    """A forward pass did not fit in a rank's memory; the error's one argument is of how many sequences it was."""

    @property
    def sequences(self) -> int:
        """That did not fit."""
        return int(self.args[0])

    @override
    def __str__(self) -> str:
        return f"there is no memory for {self.sequences} sequences at once"


class Ranks:
    """This process and the others, of which each does the same in the same order."""

    def __init__(self, seat: Seat, device: str) -> None:
        """Join them; ends when all have come.

        Args:
            seat: this process's.
            device: cpu, or cuda for the one GPU that this process sees.
        """
        place = Path(tempfile.gettempdir(), f"saemill-ranks-{seat.meeting}")  # it stays: NCCL looks into it to the end
        place.touch(mode=0o600)
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, f"file://{place}", rank=seat.rank, world_size=seat.n_ranks)
        self._seat, self._device = seat, device
        self._patient = dist.new_group(backend="gloo", timeout=_FOREVER)

    def load(self, config: ModelConfig, hooks: Sequence[str]) -> Any:
        """This process's part of a model, for ``capture`` and ``follow`` of these hooks alone.

        Raises:
            InputError: as ``load_model``, or a hook is not whole in any process, nor a stretch of the features.
            RankLostError: the model does not run in so many parts.
        """
        model = load_model(config, self._device, hooks, self._seat.n_ranks)
        for hook in hooks:
            if is_cut(model, hook):
                require_even(model, hook, self._seat.n_ranks)
        dist.barrier(group=self._patient)  # to load takes minutes, and not the same number of them
        choose_attention(model, hooks)
        self._require_whole(model, hooks)
        return model

    def capture(self, model: Any, hooks: Sequence[str], token_ids: Tensor) -> dict[str, Tensor]:
        """What ``tasks.lm.hooks.capture`` gives of the whole model; rank 0 calls it, while the others ``follow``.

        Args:
            model: what ``load`` gave.
            hooks: those that it was loaded for.
            token_ids: int64 [batch, context], on the model's device.

        Raises:
            InputError: as ``capture``.
            RanksOutOfMemoryError: there is no memory for so many sequences in this process.
            RankLostError: another process is gone, or the pass failed.
        """
        with _told(len(token_ids)):
            dist.broadcast(torch.tensor(token_ids.shape), 0, group=self._patient)
            dist.broadcast(token_ids.contiguous(), 0)
            return self._pass(model, hooks, token_ids)

    def follow(self, model: Any, hooks: Sequence[str]) -> None:
        """Wait for rank 0's ``capture``, and take part in it.

        Raises:
            InputError, RanksOutOfMemoryError, RankLostError: as ``capture``.
        """
        shape = torch.empty(2, dtype=torch.int64)
        with _told(0):
            dist.broadcast(shape, 0, group=self._patient)
        token_ids = torch.empty(shape.tolist(), dtype=torch.int64, device=model.device)
        with _told(len(token_ids)):
            dist.broadcast(token_ids, 0)
            self._pass(model, hooks, token_ids)

    def _pass(self, model: Any, hooks: Sequence[str], token_ids: Tensor) -> dict[str, Tensor]:
        found = capture(model, hooks, token_ids)
        return {hook: self._joined(own) if is_cut(model, hook) else own for hook, own in found.items()}

    def _joined(self, own: Tensor) -> Tensor:
        """All ranks' features [batch, context, d_in / n_ranks] side by side."""
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(self._seat.n_ranks)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts, dim=-1)

    def _require_whole(self, model: Any, hooks: Sequence[str]) -> None:
        with _told(_PROBE[0]):
            found = self._pass(model, hooks, random_tokens(model, *_PROBE))
            own = torch.stack([_projected(found[hook]) for hook in hooks])
            ranks = [torch.empty_like(own) for _ in range(self._seat.n_ranks)]
            dist.all_gather(ranks, own, group=self._patient)
        apart = (torch.stack(ranks) - ranks[0]).norm(dim=-1).amax(dim=0)
        for hook, is_apart in zip(hooks, (apart > _DIFFER * ranks[0].norm(dim=-1)).tolist(), strict=True):
            if is_apart:
                raise InputError(
                    f"Hook {hook!r} lies within what {self._seat.n_ranks} processes have parts of, and none has the whole. "
                    "Name the block, its attention or its MLP, or set harvest.gpus_per_replica to 1."
                )


def _projected(activation: Tensor) -> Tensor:
    """Each row of [batch, context, d_in] onto one random direction, the same in all processes, so that one can compare."""
    rows = activation.flatten(0, 1).double().cpu()
    direction = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (rows @ direction).nan_to_num()


@contextlib.contextmanager
def _told(sequences: int) -> Iterator[None]:
    """Turn whatever ends a forward pass over so many sequences into what the pool of actors knows."""
    try:
        yield
    except SaemillError:
        raise
    except Exception as error:  # torch's and gloo's of processes that went, and those of any model
        if is_out_of_memory(error):
            raise RanksOutOfMemoryError(sequences) from error
        raise RankLostError(f"a forward pass of several processes ended early ({reason_of(error)})") from error
