"""What the language model loses when the SAE's reconstructions take the place of its activations."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tasks.encode.chunks import chunk_rows, in_chunks, reconstruct
from tasks.lm.hooks import replace
from tasks.lm.repeat import layers_before, run_once
from tasks.sae import SparseAutoencoder
from tasks.score.stats import Adding, ratio

logger = logging.getLogger(__name__)

# Logits of a few sequences at a time: 2 x 256 x 49,152 in bfloat16 are 50 MB.
_SEQUENCES_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class SpliceSums(Adding):
    """Sums over predicted tokens, in nats."""

    tokens: int
    original: float
    """Cross-entropy of the model as it is."""
    sae: float
    """Of the model with reconstructions spliced in."""
    zero: float
    """With zeros."""
    mean: float
    """With the mean of the training rows."""
    kl: float
    """KL(original || with reconstructions)."""

    def summary(self) -> dict[str, float | int | None]:
        """Means per token, and the shares of the loss of an ablation that the SAE recovers."""
        n = max(1, self.tokens)
        return {
            "tokens": self.tokens,
            "original": self.original / n,
            "sae": self.sae / n,
            "zero_ablation": self.zero / n,
            "mean_ablation": self.mean / n,
            "delta_nats": (self.sae - self.original) / n,
            "kl": self.kl / n,
            "recovered_vs_zero": ratio(self.zero - self.sae, self.zero - self.original),
            "recovered_vs_mean": ratio(self.mean - self.sae, self.mean - self.original),
        }


@torch.inference_mode()
def splice(
    model: Any,
    hook: str,
    sae: SparseAutoencoder,
    mean: Float[Tensor, "d_out"],
    token_ids: Int[Tensor, "sequences context"],
    kept: Bool[Tensor, "sequences context"],
    reads: str | None = None,
) -> SpliceSums | None:
    """Run a causal LM on whole sequences, as it is and with three replacements of its activations at ``hook``.

    Only activations marked in ``kept``, those that a harvest keeps, are replaced: attention sinks and other tokens that
    the SAE never saw go on as they are, under all three alike. Every token but the first of a sequence is predicted.
    A transcoder reads another hook, ``reads``, in the same forward pass; None where that comes to ``hook`` first.
    """
    below = layers_before(model, [hook, *([] if reads is None else [reads])])
    parts = zip(in_chunks(token_ids, _SEQUENCES_AT_ONCE), in_chunks(kept, _SEQUENCES_AT_ONCE), strict=True)
    passes, sums = _FourPasses(model, hook, sae, mean, reads), list[SpliceSums]()
    try:
        for ids, mask in parts:
            with run_once(below):
                sums.append(passes.sums(ids, mask.flatten()))
    except _NotYetSeenError:
        logger.warning("no cross-entropy: the forward pass comes to %s before %s, from which it is rebuilt", hook, reads)
        return None
    return sum(sums[1:], sums[0])


@dataclass(frozen=True, slots=True)
class _FourPasses:
    """A model as it is, and with three replacements of its activations at ``hook``."""

    model: Any
    hook: str
    sae: SparseAutoencoder
    mean: Float[Tensor, "d_out"]
    reads: str | None

    def sums(self, token_ids: Int[Tensor, "n context"], kept: Bool[Tensor, "rows"]) -> SpliceSums:
        def logits(replacement: Callable[[Tensor], Tensor]) -> Tensor:
            def substitute(rows: Tensor) -> Tensor:
                changed = rows.to(torch.float32, copy=True)
                changed[kept] = replacement(changed[kept])
                return changed

            with replace(self.model, self.hook, substitute):
                return _logits(self.model, token_ids)

        targets = token_ids[:, 1:].flatten()
        original = _logits(self.model, token_ids)
        if self.reads is None:
            spliced = logits(lambda rows: reconstruct(self.sae, rows))
        else:
            with _seen(self.model, self.reads) as seen:
                spliced = logits(lambda _: reconstruct(self.sae, seen()[kept]))
        loss, kl = _losses(original, targets), _divergence(original, spliced)
        return SpliceSums(
            len(targets),
            loss,
            _losses(spliced, targets),
            _losses(logits(torch.zeros_like), targets),
            _losses(logits(self.mean.expand_as), targets),
            kl,
        )


class _NotYetSeenError(Exception):
    """The forward pass is where something is to be put in, and has not come to what that is computed from."""


@contextlib.contextmanager
def _seen(model: Any, hook: str) -> Iterator[Callable[[], Float[Tensor, "rows d_in"]]]:
    """While this is open: what the forward pass under way has had at ``hook``."""
    last: list[Tensor] = []

    def keep(rows: Tensor) -> Tensor:
        last[:] = [rows.to(torch.float32, copy=True)]
        return rows

    def take() -> Tensor:
        if not last:
            raise _NotYetSeenError
        return last.pop()

    with replace(model, hook, keep):
        yield take


def _logits(model: Any, token_ids: Int[Tensor, "n context"]) -> Float[Tensor, "predictions vocabulary"]:
    """Logits of all next tokens, in the model's own precision."""
    found: Tensor = model(input_ids=token_ids, use_cache=False).logits
    return found[:, :-1].flatten(0, 1)


def _losses(logits: Float[Tensor, "n vocabulary"], targets: Int[Tensor, "n"]) -> float:
    """Summed cross-entropy; log-softmax in float32, of a few rows at a time."""
    size = chunk_rows(logits.shape[1], logits.device)
    parts = zip(in_chunks(logits, size), in_chunks(targets, size), strict=True)
    losses = [torch.nn.functional.cross_entropy(rows.float(), wanted, reduction="sum").double() for rows, wanted in parts]
    return float(torch.stack(losses).sum())


def _divergence(original: Float[Tensor, "n vocabulary"], spliced: Float[Tensor, "n vocabulary"]) -> float:
    """Summed KL(original || spliced)."""
    size = chunk_rows(original.shape[1], original.device)
    total = 0.0
    for p, q in zip(in_chunks(original, size), in_chunks(spliced, size), strict=True):
        log_p, log_q = p.float().log_softmax(1), q.float().log_softmax(1)
        total += float((log_p.exp() * (log_p - log_q)).sum().double())
    return total
