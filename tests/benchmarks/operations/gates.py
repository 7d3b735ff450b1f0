"""Do the gates reject what is worse, and leave alone what differs by chance?

    python -m tests.benchmarks.operations.gates [--quick] [--json FILE] [--cache DIR]

SAEs of SmolLM2-135M-Instruct after layer 8, on the demo's State of the Union addresses from 1900 on, each held against one
champion on the same held-out rows. Unchanged: the champion's settings with other seeds of data and weights. Sabotaged: k
halved, trained on Python source code, encoder bias zeroed, decoder rows shuffled. Verdicts are given twice: with the noise
that is typical where nobody has measured it, and with that of five more seeds (``--repeat``). The noise found here is in the
last rows: the standard deviation over the unchanged trainings.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tasks.gates.config import GatesConfig
from tasks.gates.sums import Estimate
from tasks.gates.verdict import judged, verdict
from tasks.sae import SparseAutoencoder, load, save
from tasks.sae.scaling import Weights
from tests.benchmarks.harness import arguments, environment, finish
from tests.benchmarks.operations.stretches import FROM, add_arguments, demo, held_out, source_code, stretch, trained

Found = dict[str, Estimate]


def main() -> None:
    options = arguments(__doc__ or "", _add)
    where, cache = environment(), options.cache
    n, tokens = (4, 20_000) if options.quick else (20, options.tokens)
    rows = stretch(cache, demo(options), "sotu", FROM, 2021)
    sizes = [f"sae.d_sae={options.d_sae}", f"sae.arch={options.arch}", f"train.tokens={tokens}", *options.set]
    label = f"{options.arch}-{options.d_sae}-{tokens}"

    def at(name: str, where: str, seed: int, k: int = options.k) -> str:
        settings = [*sizes, f"sae.k={k}", f"train.seed={seed}"]
        return trained(cache, f"{name}-{seed}-{k}-{label}", where, settings)

    def look(uri: str) -> Found:
        return held_out(rows, uri, options.rows).estimates(float(options.k))

    champion, retrains = look(at("plain", rows, 0)), [at("plain", rows, 1 + i) for i in range(n)]
    repeats = [look(at("plain", rows, 101 + i)) for i in range(5)]
    few, code = n // 4, source_code(cache, options.code_tokens)
    challengers: dict[str, list[str]] = {
        "unchanged": retrains,
        "k halved": [at("plain", rows, 201 + i, options.k // 2) for i in range(few)],
        "encoder bias zeroed": [_changed(uri, "bias", _without_bias) for uri in retrains[:few]],
        "decoder shuffled": [_changed(uri, "shuffled", _shuffled) for uri in retrains[few : 2 * few]],
        "the champion itself": [at("plain", rows, 0)],
        "source code": [at("code", code, 201 + i) for i in range(few)],
    }
    found = {kind: [look(uri) for uri in uris] for kind, uris in challengers.items()}
    table = [_row(kind, name, champion, of_kind, noise) for name, noise in (("typical", ()), ("five repeats", repeats))
             for kind, of_kind in found.items()]  # fmt: skip
    table += _noise(champion, [champion, *found["unchanged"], *repeats])
    finish(options.json, _checks(table), table, where)


def _add(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--arch", default="batchtopk")
    parser.add_argument("--d-sae", type=int, default=1152)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--rows", type=int, default=16_384, help="held-out rows that all are measured on")
    parser.add_argument("--code-tokens", type=int, default=24_000)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change other settings of all SAEs")


def _row(kind: str, noise: str, champion: Found, challengers: Sequence[Found], repeats: Sequence[Found]) -> dict[str, Any]:
    rules = GatesConfig().rules
    results = [judged(rules, champion, challenger, repeats) for challenger in challengers]
    counts = Counter(verdict(found)[0] for found in results)
    lost = Counter(result.metric for found in results for result in found if result.outcome == "loss")
    return {
        "challengers": kind,
        "noise": noise,
        **{word: counts[word] for word in ("PROMOTE", "HOLD", "REJECT")},
        "fvu": float(np.mean([found["fvu"].value for found in challengers])),
        "l0_error": float(np.mean([found["l0_error"].value for found in challengers])),
        "lost": ", ".join(f"{name} {count}" for name, count in sorted(lost.items())),
    }


def _noise(champion: Found, alike: Sequence[Found]) -> list[dict[str, Any]]:
    """The standard deviation of each metric over trainings that differ in their seed, as it is and as a share."""
    found = []
    for name in champion:
        values = np.array([one[name].value for one in alike])
        deviation = float(values.std(ddof=1))
        between = (
            f"{len(values)} seeds: sd {deviation:.3g}, {deviation / max(values.mean(), 1e-9):.2%} of {values.mean():.4f}"
        )
        found.append(dict.fromkeys(("challengers", "noise", "PROMOTE", "HOLD", "REJECT", "fvu", "l0_error", "lost"), ""))
        found[-1] |= {"challengers": name, "lost": between}
    return found


def _changed(uri: str, name: str, change: Callable[[Weights], Weights]) -> str:
    """A copy of an SAE with other weights."""
    out, sae = f"{uri}-{name}", load(uri)
    roles = {"inputs": list(sae.belonging.hooks), "outputs": list(sae.belonging.hooks)}
    save(SparseAutoencoder(sae.config, change(sae.weights)), out, {"hook_roles": roles})
    return out


def _without_bias(weights: Weights) -> Weights:
    return replace(weights, b_enc=torch.zeros_like(weights.b_enc))


def _shuffled(weights: Weights) -> Weights:
    order = torch.randperm(len(weights.W_dec), generator=torch.Generator().manual_seed(0))
    return replace(weights, W_dec=weights.W_dec.detach()[order])


def _checks(table: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of all sabotaged the share that is rejected, and of all unchanged."""
    checks: dict[str, float] = {}
    for noise in ("typical", "five repeats"):
        rows = [row for row in table if row["noise"] == noise]
        bad = [row for row in rows if row["challengers"] not in ("unchanged", "the champion itself")]
        all_bad = sum(row[word] for row in bad for word in ("PROMOTE", "HOLD", "REJECT"))
        checks[f"sabotaged_rejected, {noise}"] = sum(row["REJECT"] for row in bad) / all_bad
        (same,) = (row for row in rows if row["challengers"] == "unchanged")
        checks[f"unchanged_rejected, {noise}"] = same["REJECT"] / (same["PROMOTE"] + same["HOLD"] + same["REJECT"])
    return checks


if __name__ == "__main__":
    main()
