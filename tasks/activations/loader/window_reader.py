"""Training batches from one window of a harvest after another, each as soon as it is there.

A window's rows are dealt and mixed like those of a whole harvest, and make as many batches as they fill. So which rows a
batch holds follows from the settings alone, and a window is done with at the end of a step.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import count

from tasks.activations.loader.lane_reader import LaneReader
from tasks.activations.multi_hook import AnySplit, open_split
from tasks.activations.schema import Array
from tasks.activations.windows import WindowUris, is_consumed, rows_of, steps_of, window_seed
from tasks.errors import ArtifactError, InputError

# A window takes minutes to fill. On S3 a look costs a request, and each worker looks.
_LOOK_S = 0.5


class WindowReader:
    """What ``LaneReader`` gives of a whole harvest, of its windows in turn.

    Rows of a window that fill no batch are left out. Lanes differ by up to one unit of rows: at a window's end those of
    the longest lanes are left out for the first of the shortest, which come again.
    """

    def __init__(
        self,
        windows: WindowUris,
        hooks: Sequence[str],
        *,
        batch_rows: int,
        lanes: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Wait for the first window.

        Raises:
            InputError: it holds less than a batch.
            ArtifactError: a manifest is damaged, or several hooks do not hold the same tokens.
        """
        self._windows, self._hooks, self._batch_rows = windows, list(hooks), batch_rows
        self._lanes, self._seed, self._rank, self._world_size = lanes, seed, rank, world_size
        self._ends: list[int] = []
        self._rows(0)
        self.split: AnySplit = open_split(windows.uri(0), self._hooks, "train")
        """The rows of the first window, whose statistics count for all."""
        if not self._end(0):
            raise InputError(
                f"The first window has {self.split.rows:,} rows, fewer than train.batch_tokens ({batch_rows:,}). Raise "
                "train.window_tokens."
            )

    def batches(self, first_step: int, n_steps: int) -> Iterator[Array]:
        """This rank's part of so many batches, each [batch_rows / world_size, stored_width]; waits for what is not there."""
        for reader, first, n in self._parts(first_step, n_steps):
            yield from reader.batches(first, n)

    def pieces(self, first_step: int, n_steps: int, threads: int) -> Iterator[tuple[Array, ...]]:
        """What ``batches`` gives, each batch as up to ``threads`` arrays that follow each other."""
        for reader, first, n in self._parts(first_step, n_steps):
            yield from reader.pieces(first, n, threads)

    def opening(self, rows: int) -> Iterator[Array]:
        """The first batches, which hold so many rows, or all those of the first window."""
        return self.batches(0, min(-(-rows // self._batch_rows), self._end(0)))

    def ends_at(self, step: int) -> bool:
        """Whether no row of a window that has been read is needed after so many steps, and the next window's are."""
        return step in self._ends

    def whence(self, step: int, row: int) -> str:
        """Where a row of this rank's part of a batch lies, in words."""
        reader, first, _ = next(self._parts(step, 1))
        return reader.whence(first, row)

    def _parts(self, first_step: int, n_steps: int) -> Iterator[tuple[LaneReader, int, int]]:
        """The readers of the windows that hold so many steps, each with the first of its own and how many are wanted."""
        start, stop = 0, first_step + n_steps
        for number in count():
            if start >= stop:
                return
            end = self._end(number)
            if end > max(start, first_step):
                first = max(start, first_step)
                reader = self._reader(number)
                try:
                    yield reader, first - start, min(end, stop) - first
                finally:
                    reader.close()
            start = end

    def _end(self, number: int) -> int:
        """Steps to the end of a window; those before it are there."""
        while len(self._ends) <= number:
            rows = self._rows(len(self._ends))
            self._ends.append((self._ends[-1] if self._ends else 0) + steps_of(rows, self._batch_rows))
        return self._ends[number]

    def _rows(self, number: int) -> int:
        """Of a window, which is waited for."""
        while (rows := rows_of(self._windows.uri(number))) is None:
            time.sleep(_LOOK_S)
        return rows

    def _reader(self, number: int) -> LaneReader:
        uri = self._windows.uri(number)
        if is_consumed(uri):
            raise ArtifactError(
                f"The rows of {uri} were deleted, as there was a checkpoint beyond them, which is damaged or gone now. "
                "Delete the SAE's checkpoints and all that its name begins below lakes/, and give the command again."
            )
        return LaneReader(
            self._windows.uri(number),
            self._hooks,
            batch_rows=self._batch_rows,
            lanes=self._lanes,
            seed=window_seed(self._seed, number),
            rank=self._rank,
            world_size=self._world_size,
        )


Reader = LaneReader | WindowReader
"""Batches for training."""
