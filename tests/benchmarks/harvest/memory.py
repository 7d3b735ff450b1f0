"""The peak of an actor's resident memory over a harvest, in a process of its own; started by ``__main__.py``.

Prints JSON: MiB when the model was loaded, and at the highest while harvesting. Linux only.
"""

import json
import sys
from pathlib import Path

from tests.benchmarks.harness import peak_bytes
from tests.benchmarks.harvest.rivals import Work, in_process


def main() -> None:
    work = Work(**json.loads(sys.argv[1]))
    run = in_process(work, work.config("bfloat16"), work.folder)  # its first shard is through the model by now
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark: what loading the model took is not asked here
    before = peak_bytes() / 2**20
    run()
    print(json.dumps({"before": before, "peak": peak_bytes() / 2**20}))


if __name__ == "__main__":
    main()
