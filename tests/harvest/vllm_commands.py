"""Two harvests by vLLM's stand-in from the command line: ``python -m tests.harvest.vllm_commands CONFIG STORAGE FAULT``.

In the first it errs, as written into the file FAULT, in the second it does not. Printed is what became of them.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

from flows.cli import main

SETTINGS = ("model.engine=vllm", "harvest.hooks=[model.layers.1]", "harvest.batch_sequences=null")


def harvest(config: str, storage: str) -> tuple[int, str, str]:
    """Exit code of a harvest, and what it printed and said."""
    overrides = [part for setting in SETTINGS for part in ("--set", setting)]
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        try:
            main(["harvest", config, "--storage", storage, "--json", *overrides])
        except SystemExit as ended:
            return int(ended.code or 0), printed.getvalue(), said.getvalue()


if __name__ == "__main__":
    config, storage, fault = sys.argv[1:]
    Path(fault).write_text("scaled")
    refused, _, said = harvest(config, storage)
    Path(fault).write_text("")
    done, printed, _ = harvest(config, storage)
    print(json.dumps({"refused": refused, "said": said, "done": done, "printed": json.loads(printed)}))  # noqa: T201
