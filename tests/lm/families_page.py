"""FAMILIES.md, measured anew: ``python -m tests.lm.families_page tests/lm/FAMILIES.md``."""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import transformers

from tests.lm.families import NOT_TRIED, Outcome, measured, table, text_families

HEAD = """# Families of models and their hooks

Tiny random models, in float32, on a CPU. Of every hook that `saemill hooks` lists: its output and its input after pruning
against what a plain forward hook of torch sees, to the bit; replaced by itself, which must change nothing, and by zeros,
which must do what a plain hook's zeros do. An input that is no activation per token, such as token ids, is refused in a
sentence.
These are all {families} text families of transformers {version}. Made by

    python -m tests.lm.families_page tests/lm/FAMILIES.md    # this page
    python -m tests.lm.families llama t5                     # some of them, on the terminal

**{passed} families with {hooks:,} hooks: {outputs:,} outputs and {inputs:,} inputs equal, {refused:,} inputs refused,
{spliced:,} spliced, {wrong} wrong.**

"""
REFUSED = """
Refused as a whole, in one sentence: models that read more than text, and tiny configurations in which sizes do not fit each
other (a model of usual sizes of these families may well be read).

| family | sentence |
|---|---|
"""


def page(outcomes: Sequence[Outcome]) -> str:
    """The page on these outcomes."""
    tried = [o for o in outcomes if not o.sentence]
    counts = {
        "hooks": sum(o.hooks for o in tried),
        "outputs": sum(o.outputs for o in tried),
        "inputs": sum(o.inputs for o in tried),
        "refused": sum(sum(o.refused.values()) for o in tried),
        "spliced": sum(o.spliced for o in tried),
        "wrong": sum(len(o.wrong) for o in tried),
    }
    head = HEAD.format(families=len(outcomes), version=transformers.__version__, passed=len(tried), **counts)
    refused = [o for o in outcomes if o.sentence and not o.sentence.startswith(NOT_TRIED)]
    rows = "".join(f"| {o.kind} | {o.sentence.replace('|', '/')} |\n" for o in refused)
    wrong = "".join(f"\nWrong in {o.kind}: {', '.join(o.wrong)}.\n" for o in tried if o.wrong)
    unmade = ", ".join(o.kind for o in outcomes if o.sentence.startswith(NOT_TRIED))
    return (
        f"{head}{''.join(f'{line}' + chr(10) for line in table(tried))}{wrong}{REFUSED}{rows}\n"
        f"Not measured, as no tiny model could be made by the general sizes: {unmade}.\n"
    )


def main(path: str) -> None:
    """Measure all families, some of which take a minute, and write the page."""
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    outcomes = []
    for outcome in measured(text_families()):
        outcomes.append(outcome)
        sys.stdout.write(f"{outcome.kind} {outcome.seconds:.1f} s {outcome.sentence[:100]}\n")
        sys.stdout.flush()
    Path(path).write_text(page(outcomes))


if __name__ == "__main__":
    main(sys.argv[1])
