"""The processes of a group beside the one that harvests: they hold their parts of the model. No Ray."""

from typing import NoReturn

import torch

from tasks.harvest.pool.actor import HarvestJob
from tasks.harvest.pool.memory import keep_freed_memory
from tasks.harvest.pool.ranks import Ranks, Seat


class Follower:
    """A rank other than 0: takes part in each of rank 0's forward passes."""

    def __init__(self, job: HarvestJob, seat: Seat) -> None:
        keep_freed_memory()
        torch.set_num_threads(job.threads)
        self._hooks = job.settings.hooks
        self._ranks = Ranks(seat, job.device)
        self._model = self._ranks.load(job.model, self._hooks)

    def follow(self) -> NoReturn:
        """Goes on until the group ends.

        Raises:
            InputError, RanksOutOfMemoryError, RankLostError: as ``Ranks.follow``.
        """
        while True:
            self._ranks.follow(self._model, self._hooks)
