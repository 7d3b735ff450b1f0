"""A champion goes on with the next stretch of a corpus: warm beside cold, by tokens, and what of its latents is left.

    python -m tests.benchmarks.operations.warm_start [--quick] [--json FILE] [--cache DIR]

SmolLM2-135M-Instruct after layer 8, the demo's State of the Union addresses. The champion is trained on those before 1900,
then warm and cold SAEs on those from 1900 on, each to the end of its own schedule with a share of the tokens. FVU is that of
held-out rows of the new stretch, the champion's own beside it. Kept is the share of the champion's firing latents that are
mutually nearest with a latent of the other SAE at a decoder cosine of .7 or more. ``bias anew`` is a warm start whose
decoder bias begins at the new rows' mean, as a cold one's does, in place of the champion's own.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from flows.config import load_config
from tasks.gates.measure import shared_share
from tasks.sae import load
from tasks.sae.mesh import OneProcess
from tasks.storage.artifacts import read_manifest
from tasks.train.finish import close
from tasks.train.loop import train
from tasks.train.worker import Worker
from tests.benchmarks.harness import arguments, environment, finish
from tests.benchmarks.operations.stretches import DEMO, FROM, add_arguments, demo, held_out, stretch, trained
from tests.composed import run_settings

SHARES = (1.0, 0.5, 0.25, 0.1)


def main() -> None:
    options = arguments(__doc__ or "", _add)
    where, cache = environment(), options.cache
    tokens, harvested = 30_000 if options.quick else options.tokens, demo(options)
    before, after = (stretch(cache, harvested, "sotu", *years) for years in ((1790, FROM - 1), (FROM, 2021)))
    sizes = [f"sae.d_sae={options.d_sae}", f"sae.arch={options.arch}", f"sae.k={options.k}", *options.set]
    label = f"{options.arch}-{options.d_sae}-{options.k}-{tokens}"
    champion = trained(cache, f"champion-{label}", before, [*sizes, f"train.tokens={tokens}"])
    rows: list[dict[str, Any]] = [_row("champion, before it goes on", 0, after, champion, champion)]
    for share in SHARES:
        for kind, more in (("cold", []), ("warm", [f"train.init_from={champion}"])):
            n = round(share * tokens)
            settings = [*sizes, f"train.tokens={n}", *more]
            rows.append(_row(kind, n, after, champion, trained(cache, f"{kind}-{n}-{label}", after, settings)))
            print(rows[-1], flush=True)
    settings = [*sizes, f"train.tokens={tokens}", f"train.init_from={champion}"]
    rows.append(_row("warm, bias anew", tokens, after, champion, _bias_anew(cache / f"saes/anew-{label}", after, settings)))
    finish(options.json, _checks(rows, tokens), rows, where)


def _add(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--arch", default="batchtopk")
    parser.add_argument("--d-sae", type=int, default=2304)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change other settings of all SAEs")


def _row(system: str, tokens: int, rows: str, champion: str, sae: str) -> dict[str, Any]:
    found = held_out(rows, sae, 20_000)
    kept = shared_share(load(champion), load(sae), torch.from_numpy(held_out(rows, champion, 20_000).fires))
    figures = {name: estimate.value for name, estimate in found.estimates(1.0).items()}
    return {
        "system": system,
        "tokens": tokens,
        "fvu": figures["fvu"],
        "l0": found.l0,
        "never_firing": figures["never_firing"],
        "kept": kept,
    }


def _bias_anew(out: Path, rows: str, settings: list[str]) -> str:
    """A warm start but for the decoder's bias, which is 0 behind the new rows' centre."""
    if read_manifest(str(out)) is None:
        config = load_config(DEMO, ["train.workers=1", *settings])
        worker = Worker(run_settings(config), rows, str(out), OneProcess())
        run = worker.start()
        run.state.parameters.b_dec.zero_()
        done = train(run, worker.batches(0), worker.plan, worker.scaling)
        close(worker.config, rows, str(out), worker.finish(done), {})
    return str(out)


def _checks(rows: list[dict[str, Any]], tokens: int) -> dict[str, float]:
    """Tokens of the shortest warm run that is as good as the whole cold one, as a share, and what runs kept at least."""
    (cold,) = (row for row in rows if (row["system"], row["tokens"]) == ("cold", tokens))
    warm = [row for row in rows if row["system"] == "warm"]
    enough = [row["tokens"] / tokens for row in warm if row["fvu"] <= cold["fvu"]]
    return {
        "warm_tokens_for_cold_fvu": min(enough, default=float("inf")),
        "warm_kept": min(row["kept"] for row in warm),
        "cold_kept": cold["kept"],
    }


if __name__ == "__main__":
    main()
