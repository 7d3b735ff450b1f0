"""What one training worker does, whoever started it: read its lanes, go on from the newest checkpoint, take the steps."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tasks.activations.loader.lane_reader import LaneReader
from tasks.activations.loader.window_reader import Reader, WindowReader
from tasks.activations.reader import Split
from tasks.activations.schema import Array
from tasks.activations.tensors import as_tensor, from_stored
from tasks.errors import InputError
from tasks.sae import load
from tasks.sae.mesh import Mesh
from tasks.sae.scaling import Scaling, scaling, side_by_side
from tasks.storage.objects import open_store
from tasks.train.checkpoint import newest_run
from tasks.train.checkpoint_names import CHECKPOINTS
from tasks.train.feed import feed
from tasks.train.finish import finished_weights, write_sae
from tasks.train.init_fit import require_same_sizes
from tasks.train.loop import Run, ignore, train
from tasks.train.nonfinite import NotFiniteError, explain
from tasks.train.plan import plan
from tasks.train.run_settings import RunSettings
from tasks.train.source import RowSource
from tasks.train.timing import accounts
from tasks.train.train_state import TrainState, initial_state, share_state
from tasks.train.warm_start import FIRING_ROWS, FIRING_SHARE, Seen, firing, require_fit, warm_state

SAMPLE_ROWS = 8192
"""Training rows that the initial weights are drawn from."""


class Worker:
    """One of the workers of a mesh that train one SAE together."""

    def __init__(
        self,
        config: RunSettings,
        activations: str,
        out: str,
        mesh: Mesh,
        device: str = "cpu",
        source: RowSource | None = None,
    ) -> None:
        """Open the activations and resolve the settings against them.

        ``source`` tells where rows are read, where that is not simply ``activations``.

        Raises:
            InputError: sae.d_in is set and disagrees with the activations, or there are fewer rows than lanes.
            ArtifactError: the activations are unfinished, lack a hook, or hold other tokens at one hook than at another.
        """
        self.config = config
        self.activations = activations
        self.out = out
        self.mesh = mesh
        self.device = device
        self._source = source or RowSource(activations)
        rows, parts = mesh.data, mesh.latents
        self._reader = self._open(rows.rank * parts.world_size + parts.rank, rows.world_size * parts.world_size)
        widths = dict(zip(config.hooks.all, (part.d_in for part in self._reader.split.parts), strict=True))
        d_in, d_out = (sum(widths[hook] for hook in hooks) for hooks in (config.hooks.inputs, config.hooks.outputs))
        if config.sae.d_in not in (None, d_in):
            raise InputError(
                f"sae.d_in is {config.sae.d_in} but activations of {', '.join(config.hooks.inputs)} have {d_in} features. "
                "Leave sae.d_in empty or correct it."
            )
        self.plan = plan(config.sae, config.train, d_in, d_out)
        self.scaling = side_by_side([_scaling_of(part, device) for part in self._reader.split.parts])

    def train(
        self,
        on_row: Callable[[Run], None] = ignore,
        on_checkpoint: Callable[[Run], None] = ignore,
        told_to_stop: Callable[[], bool] | None = None,
    ) -> Run:
        """Train to the end, from the newest whole checkpoint below ``out`` if there is one.

        Raises:
            InputError: the loss is not a finite number any more; the message says whether rows are at fault, and which.
            ArtifactError: a shard is damaged, or workers do not see the same storage.
            StoppedError: one of the workers was told to stop, and all have taken a checkpoint.
        """
        run = self.start()
        batches, listeners = self.batches(run.state.step), (on_row, on_checkpoint, told_to_stop)
        try:
            return train(run, batches, self.plan, self.scaling, self.mesh, *listeners, self._is_due)
        except NotFiniteError as error:
            raise self.explained(error) from None

    def start(self, sample: Callable[[], Tensor] | None = None) -> Run:
        """The newest whole checkpoint below ``out``, or a run before its first step.

        ``sample`` gives what ``self.sample`` does, for callers that have it already.

        Raises:
            InputError: the SAE that training begins from is of another kind, or there is none.
            ArtifactError: workers do not see the same storage, or that SAE is damaged.
        """
        run = newest_run(open_store(self.out), f"{CHECKPOINTS}/", self.plan, self.device, self.mesh)
        run = run or Run(self._first_state(sample or self.sample))
        run.state = share_state(run.state, self.plan, self.mesh)
        return run

    def sample(self) -> Tensor:
        """Scaled rows (targets too) of the first batches, over all lanes, so that every worker has the same."""
        return self.scaling.apply(torch.cat(list(self._first_rows(SAMPLE_ROWS)))).cpu()

    def _first_state(self, sample: Callable[[], Tensor]) -> TrainState:
        """Before the first step, from drawn weights or from an SAE, which is not looked at once there is a checkpoint."""
        if self.config.train.init_from is None:
            return initial_state(self.plan, sample(), self.device, self.mesh.latents)
        require_same_sizes(self.config, self.plan.layout.d_in)
        sae = load(self.config.train.init_from, self.device)
        require_fit(sae, self.plan)
        most = max(SAMPLE_ROWS, self.config.train.tokens // FIRING_SHARE)
        seen = Seen(firing(sae, self._first_rows(min(FIRING_ROWS, most))), torch.cat(list(self._first_rows(SAMPLE_ROWS))))
        return warm_state(self.plan, sae, seen, self.scaling, self.device, self.mesh.latents)

    def _first_rows(self, wanted: int) -> Iterator[Tensor]:
        """Raw rows of the first batches, over all lanes."""
        return (self._tensor(rows) for rows in self._open(rank=0, world_size=1).opening(wanted))

    def batches(self, first: int) -> Iterator[Tensor]:
        """This worker's raw rows of the steps from ``first`` to the last."""
        return feed(self._reader, first, self.plan.n_steps - first, torch.device(self.device))

    def explained(self, error: NotFiniteError) -> InputError:
        """The error as the user gets it: with a word on whether rows are at fault, and which."""
        reader = self._open(rank=0, world_size=1)
        raw = self._tensor(next(iter(reader.batches(error.step - 1, 1))))
        return explain(error, reader, raw, self.scaling)

    def finish(self, run: Run) -> dict[str, Any]:
        """Write the finished SAE below ``out``; what its manifest says about it. All workers come here, and one writes."""
        weights = finished_weights(self.plan, run.state, self.scaling, self.mesh.latents)
        if self.mesh.data.rank + self.mesh.latents.rank > 0:
            return {}
        return write_sae(self.config, self.plan, run, self.scaling, weights, self.out)

    def accounts(self, run: Run) -> dict[str, Any]:
        """Where the time of a finished run went, as run.json tells it."""
        n_workers, most_rows = self.mesh.data.world_size * self.mesh.latents.world_size, run.state.scratch.most_rows
        return accounts(run.timing, self.plan, n_workers, self.config.train.price_per_hour, self.device, most_rows)

    def _is_due(self, step: int) -> bool:
        """Whether rows can be deleted once there is a checkpoint of this step; all workers say the same."""
        return self._source.is_rolling and isinstance(self._reader, WindowReader) and self._reader.ends_at(step)

    def _open(self, rank: int, world_size: int) -> Reader:
        settings, source = self.config.train, self._source
        opened: Callable[..., Reader] = (
            partial(LaneReader, source.activations) if source.windows is None else partial(WindowReader, source.windows)
        )
        return opened(
            self.config.hooks.all,
            batch_rows=settings.batch_tokens,
            lanes=settings.lanes,
            seed=settings.seed,
            rank=rank,
            world_size=world_size,
        )

    def _tensor(self, rows: Array) -> Tensor:
        return from_stored(as_tensor(rows, self.device), self._reader.split.dtype)


def _scaling_of(hook: Split, device: str) -> Scaling:
    """The scaling of one hook's features, by the statistics of its training rows."""
    mean = torch.tensor(hook.statistics["mean"], dtype=torch.float32, device=device)
    return scaling(mean, hook.statistics["variance"])
