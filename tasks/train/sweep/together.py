"""Several SAEs trained by one worker on one stream of batches: each batch is read once, and every SAE takes its step."""

import functools
from collections.abc import Callable, Sequence

from tasks.errors import InputError
from tasks.storage.objects import open_store
from tasks.train.checkpoint import write_run
from tasks.train.checkpoint_names import CHECKPOINTS
from tasks.train.loop import Run, Stepper, StoppedError, timed
from tasks.train.nonfinite import NotFiniteError
from tasks.train.worker import Worker


def train_together(
    workers: Sequence[Worker],
    on_row: Callable[[int, Run], None],
    on_end: Callable[[int, Run], None],
    on_fault: Callable[[int, InputError], None],
    told_to_stop: Callable[[], bool] | None = None,
) -> None:
    """Train each of ``workers`` to the end, from its newest checkpoint, on batches that are read once for all of them.

    Those that are ahead wait for the others: batches are read from the step of the one that is furthest behind.
    Checkpoints lie where each would have them alone, and each ends with the bits that it would have alone.

    Args:
        workers: of settings that differ in the SAE, the learning rate or the initial weights only; each works alone.
        on_row: gets the index of a worker and its run when a row of its curve has been closed.
        on_end: gets them after the last step; the run is let go then.
        on_fault: gets the index of a worker whose loss is not finite any more, and why; the others go on.
        told_to_stop: looked at after every batch; if so, each takes a checkpoint.

    Raises:
        ArtifactError: a shard is damaged.
        StoppedError: this worker was told to stop.
    """
    sample = functools.cache(workers[0].sample)
    steppers = {i: _stepper(i, worker, worker.start(sample), on_row) for i, worker in enumerate(workers)}
    sample.cache_clear()
    _let_go(steppers, on_end)
    first = min((stepper.run.state.step for stepper in steppers.values()), default=workers[0].plan.n_steps)
    for step, (raw, waited) in enumerate(timed(workers[0].batches(first)), start=first):
        due = {i: stepper for i, stepper in steppers.items() if stepper.run.state.step == step}
        for i, stepper in due.items():
            try:
                stepper.take(raw, waited / len(due))
            except NotFiniteError as error:
                del steppers[i]
                on_fault(i, workers[i].explained(error))
        _let_go(steppers, on_end)
        if not steppers:
            break
        if told_to_stop is not None and told_to_stop():
            for stepper in steppers.values():
                stepper.save()
            raise StoppedError


def _stepper(index: int, worker: Worker, run: Run, on_row: Callable[[int, Run], None]) -> Stepper:
    store, keep = open_store(worker.out), worker.config.train.keep_checkpoints
    return Stepper(
        run,
        worker.plan,
        worker.scaling,
        worker.mesh,
        functools.partial(on_row, index),
        lambda run: write_run(run, store, f"{CHECKPOINTS}/", keep),
    )


def _let_go(steppers: dict[int, Stepper], on_end: Callable[[int, Run], None]) -> None:
    for i in [i for i, stepper in steppers.items() if stepper.done]:
        on_end(i, steppers.pop(i).run)
