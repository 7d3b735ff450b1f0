"""A worker's pre-activations, [n, d_sae], of which a step at active latents keeps a few."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tasks.sae.architectures.affine import pre_activations
from tasks.sae.architectures.base import StepBatch
from tasks.sae.architectures.row_blocks import in_blocks
from tasks.sae.kernels.backend import Backend
from tasks.sae.kernels.dispatch import backend_for
from tasks.sae.kernels.types import Entries, joined_entries
from tasks.sae.parameters import Parameters

Selection = Callable[[Tensor], Entries]
"""Pre-activations of some rows [n, d_own], of this worker's latents -> the entries that a step looks at in these rows."""


class PreActivations:
    """The encoder's product with a worker's rows: held to be selected from, or made block by block where memory ends."""

    def __init__(self, parameters: Parameters, x: Tensor, batch: StepBatch) -> None:
        """Of scaled rows ``x [n, d_in]``; nothing is computed yet."""
        self._parameters, self._x, self._batch = parameters, x, batch
        self._whole: Tensor | None = None
        self.dtype = torch.bfloat16 if batch.bf16 else x.dtype

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self._x)

    @property
    def d_own(self) -> int:
        """Number of this worker's latents."""
        return len(self._parameters.encoder)

    @property
    def backend(self) -> Backend:
        """That which selects from them."""
        return backend_for(self._x.new_empty(0, dtype=self.dtype))

    def begin(self) -> None:
        """Take the product where memory has room for all of it, before what follows is known.

        Raises:
            InputError: there is no memory for a single row.
        """
        in_blocks(self.n, self._batch.scratch, lambda blocks: [self._of(blocks[0])] if len(blocks) == 1 else [])

    def select_at_once(self, selections: Sequence[Selection]) -> list[Entries]:
        """What each selection finds that has to see all rows together; nothing where memory has no room for these.

        Raises:
            InputError: there is no memory for a single row.
        """
        return in_blocks(
            self.n, self._batch.scratch, lambda blocks: self._selected(blocks, selections) if len(blocks) == 1 else []
        )

    def select(self, selections: Sequence[Selection]) -> list[Entries]:
        """What each selection finds in all rows. Those that are made together need the product of a block once.

        Raises:
            InputError: there is no memory for a single row.
        """
        return in_blocks(self.n, self._batch.scratch, lambda blocks: self._selected(blocks, selections))

    def first_rows(self, n: int) -> Tensor:
        """The pre-activations of the first ``n`` rows, or of fewer where these do not fit in memory.

        Raises:
            InputError: there is no memory for a single row.
        """
        return in_blocks(self.n, self._batch.scratch, lambda blocks: self._of(blocks[0])[:n])

    def _selected(self, blocks: Sequence[slice], selections: Sequence[Selection]) -> list[Entries]:
        found = [self._in_block(block, selections) for block in blocks]
        return [joined_entries(parts) for parts in zip(*found, strict=True)]

    def _in_block(self, block: slice, selections: Sequence[Selection]) -> list[Entries]:
        pre_acts = self._of(block)
        return [select(pre_acts) for select in selections]

    def _of(self, block: slice) -> Tensor:
        if block != slice(0, self.n):
            self._whole = None
            return pre_activations(self._parameters, self._x[block], self._batch)
        if self._whole is None:
            self._whole = pre_activations(self._parameters, self._x, self._batch)
        return self._whole
