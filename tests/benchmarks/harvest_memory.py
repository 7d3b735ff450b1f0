"""The peak of an actor's resident memory over a harvest, in a process of its own; started by ``harvest.py``.

Prints JSON: MiB when the model was loaded, and at the highest while harvesting. Linux only.
"""

import json
import re
import sys
from pathlib import Path

from tests.benchmarks.harvest_rivals import Work, in_process


def main() -> None:
    work = Work(**json.loads(sys.argv[1]))
    run = in_process(work, work.config("bfloat16"), work.folder)  # its first shard is through the model by now
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark: what loading the model took is not asked here
    before = _peak_mib()
    run()
    print(json.dumps({"before": before, "peak": _peak_mib()}))


def _peak_mib() -> float:
    """Since the mark was reset."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
