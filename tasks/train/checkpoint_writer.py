"""Checkpoints written beside the steps, which wait for a copy of the state only: a thread encodes, hashes and stores it."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from tasks.sae.parameters import Parameters, layout_of, view
from tasks.train.curve import Meter
from tasks.train.loop import Run, StoppedError


class CheckpointWriter:
    """Writes one checkpoint at a time; whoever leaves its context has waited for the last one, whose error is raised."""

    def __init__(self) -> None:
        """Begin with nothing to write."""
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._memory = _HostMemory()

    def copy(self, run: Run) -> Callable[[], Run]:
        """Copy what a checkpoint holds of a run between two steps; the result gives the copy to the thread that writes.

        The memory is that of the last copy, so the last checkpoint is waited for.

        Raises:
            Exception: of those with which the last checkpoint could not be written.
        """
        self.wait()
        return self._memory.copy(run)

    def begin(self, write: Callable[[], None]) -> None:
        """Have the thread do this, once it has written the last checkpoint.

        Raises:
            Exception: of those with which the last checkpoint could not be written.
        """
        self.wait()
        self._writing = self._thread.submit(write)

    def check(self) -> None:
        """Raise the error with which the checkpoint that is being written has failed, if it has."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> float:
        """Wait for the checkpoint that is being written; the seconds that it took.

        Raises:
            Exception: of those with which it could not be written.
        """
        began = time.perf_counter()
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
        return time.perf_counter() - began

    def __enter__(self) -> Self:
        """For as long as checkpoints are taken."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the last checkpoint; its error is not raised where another is under way."""
        if error is None or isinstance(error, StoppedError):
            self.wait()
        elif self._writing is not None:
            wait([self._writing])
        self._thread.shutdown()


class _HostMemory:
    """Memory of the host for what a checkpoint holds, the same for each; pinned, where the run is on a GPU."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def copy(self, run: Run) -> Callable[[], Run]:
        state = run.state
        copied = replace(
            state,
            parameters=self._parameters("parameters", state.parameters),
            moments=(self._parameters("exp_avg", state.moments[0]), self._parameters("exp_avg_sq", state.moments[1])),
            silent=self._tensor("silent", state.silent),
            buffers={name: self._tensor(f"buffer.{name}", buffer) for name, buffer in state.buffers.items()},
            averaged=None if state.averaged is None else self._tensor("averaged", state.averaged),
        )
        found = Run(copied, list(run.curve), Meter(list(run.meter.steps)), replace(run.timing))
        made = torch.cuda.Event() if state.silent.is_cuda else None  # type: ignore[no-untyped-call]
        if made is not None:
            made.record(torch.cuda.current_stream(state.silent.device))

        def ready() -> Run:
            if made is not None:
                made.synchronize()
            return found

        return ready

    def _parameters(self, name: str, given: Parameters) -> Parameters:
        return view(self._tensor(name, given.flat), layout_of(given))

    def _tensor(self, name: str, given: Tensor) -> Tensor:
        if name not in self._held:
            self._held[name] = torch.empty(given.shape, dtype=given.dtype, pin_memory=given.is_cuda)
        return self._held[name].copy_(given, non_blocking=True)  # the next step of a GPU comes after it, on one stream
