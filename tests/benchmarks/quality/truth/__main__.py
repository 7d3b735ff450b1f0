"""Recovery of known features: every architecture, against SAELens' own training of the same one on the same stream.

    python -m tests.benchmarks.quality.truth [--quick] [--json FILE] [--only ARCH ...] [--seeds N] [--samples N]
                                           [--cache DIR]

Streams come from ``sae_lens.synthetic`` (its 16k benchmark at 2,048 features in 256 dimensions, and two toys). Both sides
read the same file in the same order once, batch 1024, 512 latents, L0 8, and are scored by ``tasks.score.truth`` as they
are saved for use. Theirs: lr 1e-3, linear decay over the last third, else its runner's defaults; where a coefficient decides
the L0, it is searched until that is within 5%. Ours: all defaults.

``checks``: for each architecture that both have, ours minus theirs as a mean over streams, of which the worst; the best
F1 of ours minus theirs; and how far the L0 of compared runs is from the target at most. What SAELens' runs came to is
recorded in ``peers/recorded.json``, and measured again with ``--fresh``.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tasks.sae.architectures.names import NAMES
from tasks.sae.config import SAEConfig
from tasks.score.truth import Recovery
from tasks.train.config import TrainConfig
from tests.benchmarks import CACHE
from tests.benchmarks.harness import arguments, environment, finish
from tests.benchmarks.quality.truth.coefficient import aim
from tests.benchmarks.quality.truth.contenders import Peer, peers
from tests.benchmarks.quality.truth.ours import our_recovery
from tests.benchmarks.quality.truth.stream import Data, NotRecordedError, PeerRun, Peers, Stream, peer_recovery

D_SAE, K, BATCH, PEER_LR = 512, 8, 1024, 1e-3
PREFIXES = (16, 64, 256, 512)
SAMPLES, QUICK_SAMPLES = 5_000_000, 300_000
OURS, THEIRS = "saemill", "sae-lens"
TOYS = {  # name: features (and latents), dimensions, probability of firing, k
    "toy 64 in 32": (64, 32, 0.05, 3),
    "toy 128 in 64": (128, 64, 0.03, 4),
}
TOY_ARCHS = ("topk", "batchtopk", "matryoshka", "jumprelu_l0")
TOY_SAMPLES = 3_000_000
Row = dict[str, Any]


def compare(stream: Stream, name: str, archs: Sequence[str], starts: dict[str, float], train: Peers) -> Iterator[Row]:
    """Rows of both sides, architecture by architecture; ``starts`` keeps peers' coefficients from stream to stream."""
    n_steps = stream.data.samples // BATCH
    settings = TrainConfig(tokens=n_steps * BATCH, batch_tokens=BATCH, seed=stream.data.seed)
    others = peers(K, PREFIXES, n_steps)
    for arch in archs:
        prefixes = PREFIXES if arch == "matryoshka" else None
        found = our_recovery(stream, SAEConfig(arch=arch, d_sae=D_SAE, k=K, prefixes=prefixes), settings)
        yield _row(name, arch, OURS, found.recovery, found.lr, None, found.seconds)
        if arch in others:
            peer = replace(others[arch], start=starts.get(arch, others[arch].start))
            try:
                row = theirs(stream, name, arch, peer, train)
            except NotRecordedError as error:
                print(f"not recorded: {error}", flush=True)
                continue
            starts[arch] = row["coefficient"] or others[arch].start
            yield row


def theirs(stream: Stream, name: str, arch: str, peer: Peer, train: Peers = "missing") -> Row:
    """One row of SAELens, its coefficient searched where one decides the L0."""
    n_steps = stream.data.samples // BATCH
    plain = PeerRun(
        architecture=peer.architecture,
        sae=peer.settings,
        d_sae=D_SAE,
        batch=BATCH,
        lr=PEER_LR,
        dead_window=max(1, n_steps // 5),
        samples=n_steps * BATCH,
        seed=stream.data.seed,
    )

    def run(coefficient: float) -> tuple[float, tuple[Recovery, float]]:
        given = {} if peer.coefficient is None else {peer.coefficient: peer.value(float(f"{coefficient:.4g}"))}
        result = peer_recovery(stream.data, stream.folder.parent, replace(plain, sae={**plain.sae, **given}), train)
        return result[0].l0, result

    if peer.coefficient is None:
        coefficient, (found, seconds) = None, run(0.0)[1]
    else:
        aimed, (found, seconds) = aim(run, peer.start, K)
        coefficient = aimed.coefficient
    return _row(name, arch, THEIRS, found, PEER_LR, coefficient, seconds)


def toys(samples: int, cache: Path, archs: Sequence[str]) -> Iterator[Row]:
    """Rows of ours on streams where nearly everything can be found."""
    for name, (features, d_in, p, k) in TOYS.items():
        stream = Stream(Data(kind="toy", seed=0, samples=samples, features=features, d_in=d_in, p=p), cache)
        settings = TrainConfig(tokens=samples // BATCH * BATCH, batch_tokens=BATCH)
        for arch in [arch for arch in TOY_ARCHS if arch in archs]:
            result = our_recovery(stream, SAEConfig(arch=arch, d_sae=features, k=k), settings)
            yield _row(name, arch, OURS, result.recovery, result.lr, None, result.seconds)


def _row(stream: str, arch: str, library: str, found: Recovery, lr: float, coefficient: float | None, seconds: float) -> Row:
    more = {"lr": lr, "coefficient": coefficient, "seconds": seconds}
    row = {"stream": stream, "arch": arch, "library": library, **asdict(found), **more}
    print({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}, flush=True)
    return row


def checks(rows: Sequence[Row]) -> dict[str, float]:
    """What is wanted of the rows, as far as they were measured."""
    synthetic = [row for row in rows if not row["stream"].startswith("toy")]
    peers = {row["arch"] for row in synthetic if row["library"] == THEIRS}
    compared = [row for row in synthetic if row["arch"] in peers]
    found: dict[str, float] = {}
    if compared:
        for score in ("mcc", "f1"):
            gains = [_mean(compared, arch, OURS, score) - _mean(compared, arch, THEIRS, score) for arch in sorted(peers)]
            found[f"truth_{score}_vs_saelens_worst"] = min(gains)
        best = {
            library: max(_mean(synthetic, arch, library, "f1") for arch in _archs(synthetic, library))
            for library in (OURS, THEIRS)
        }
        found["truth_f1_best_gain"] = best[OURS] - best[THEIRS]
        found["truth_l0_worst_miss"] = max(abs(row["l0"] / K - 1) for row in compared)
    for arch, check in ((None, "truth_toy_mcc_best"), ("topk", "truth_toy_mcc_topk")):
        best_of = [
            max((row["mcc"] for row in rows if row["stream"] == toy and arch in (None, row["arch"])), default=0.0)
            for toy in TOYS
        ]
        if min(best_of) > 0:
            found[check] = min(best_of)
    return found


def _archs(rows: Sequence[Row], library: str) -> set[str]:
    return {row["arch"] for row in rows if row["library"] == library}


def _mean(rows: Sequence[Row], arch: str, library: str, score: str) -> float:
    return statistics.mean(row[score] for row in rows if (row["arch"], row["library"]) == (arch, library))


def _options(parser: argparse.ArgumentParser) -> None:
    every = [name for name in NAMES if name != "dense"]
    parser.add_argument("--only", nargs="+", choices=every, default=every, help="these architectures alone")
    parser.add_argument("--seeds", type=int, help="how many streams are drawn; 2, or 1 with --quick")
    parser.add_argument("--samples", type=int, help="rows of a stream; 5M, or 300k with --quick")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--fresh", dest="peers", action="store_const", const="all", help="train SAELens' SAEs anew")
    which.add_argument(
        "--recorded", dest="peers", action="store_const", const="recorded", help="train none of them: take what is recorded"
    )
    parser.set_defaults(peers="missing")
    parser.add_argument("--no-toys", action="store_true", help="leave the toys out")
    parser.add_argument("--cache", type=Path, default=CACHE / "truth", help="where streams are kept")


def main() -> None:
    options, where = arguments(__doc__ or "", _options), environment()
    samples = options.samples or (QUICK_SAMPLES if options.quick else SAMPLES)
    rows: list[Row] = []
    starts: dict[str, float] = {}
    for seed in range(options.seeds or (1 if options.quick else 2)):
        stream = Stream(Data(kind="synthetic", seed=seed, samples=samples), options.cache)
        print(f"seed {seed}: {stream.true_l0:.2f} features fire on a row", flush=True)
        rows += compare(stream, f"seed {seed}", options.only, starts, options.peers)
    if not options.no_toys:
        rows += toys(min(samples, TOY_SAMPLES), options.cache, options.only)
    finish(options.json, checks(rows), rows, where | {"samples": samples})


if __name__ == "__main__":
    main()
