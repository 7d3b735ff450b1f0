"""How much memory this machine lets a process have."""

import os
from pathlib import Path

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of the container, by version of cgroups."""


def memory_bytes() -> int | None:
    """Bytes of memory of the machine or of the container that this is, whichever has less; None where nobody tells."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (ValueError, OSError):  # not on this system
        return None
    for path in _LIMITS:
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):  # not this version, or 'max'
            continue
    return min(found)


def gib(n_bytes: float) -> str:
    """Bytes in GiB, such as '23.5 GiB'."""
    return f"{n_bytes / 2**30:,.3g} GiB" if n_bytes < 1000 * 2**30 else f"{n_bytes / 2**30:,.0f} GiB"
