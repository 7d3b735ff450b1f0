"""The settings of the Ray cluster; nothing here imports Ray."""

import os

from pydantic import Field

from tasks.errors import InputError
from tasks.settings import MOST_PROCESSES, Settings


class RayConfig(Settings):
    """Where the work runs."""

    address: str | None = None
    """Address of a running Ray cluster ('auto' for the one on this machine). Empty: start a local one."""
    num_cpus: int | None = Field(None, ge=1, le=MOST_PROCESSES)
    """CPUs of the local cluster. Empty: all of the machine's."""
    object_store_mb: int = Field(256, ge=80, le=2**24)
    """Shared memory of the local cluster's object store, in MiB; activations never pass through it."""
    start_timeout_s: float = Field(300.0, gt=0, le=86_400, allow_inf_nan=False)
    """How long the local cluster may take to start, in seconds: about 6 on a quiet machine, minutes on a crowded one."""

    @property
    def cpus(self) -> int:
        """CPUs of a local cluster."""
        return self.num_cpus or os.cpu_count() or 1

    def require_cpus(self, setting: str, processes: int, cpus_each: float) -> None:
        """Refuse more processes than the local cluster will hold; of one that is joined, the stage asks it itself.

        Raises:
            InputError: they want more CPUs than there are. ``setting`` is what their number is called.
        """
        there = self.cpus
        if self.address is None and processes * cpus_each > there:
            raise InputError(
                f"{setting} is {processes} with {cpus_each:g} CPUs each, but the local Ray cluster has {there}. "
                f"Lower {setting}, or raise ray.num_cpus."
            )
