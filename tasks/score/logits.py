"""What latents say by their weights alone: the tokens that they promote and suppress, and the latents nearest to them."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tasks.encode.chunks import chunk_rows, in_chunks
from tasks.score.final_norm import final_norm

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Extremes:
    """For each latent the n best entries and their scores, best first; in main memory."""

    index: Int[Tensor, "d_sae n"]
    score: Float[Tensor, "d_sae n"]


@dataclass(frozen=True, slots=True)
class Unembedding:
    """The way from the residual stream to logits: the final norm's factors, then the unembedding."""

    W_U: Float[Tensor, "vocabulary d_model"]
    norm_weight: Float[Tensor, "d_model"]
    centred: bool
    """The final norm takes the mean over features away, as LayerNorm does."""

    def rows(self, W_dec: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """Decoder rows as the unembedding sees them, up to the norm's scale, which differs from token to token."""
        directions = W_dec - W_dec.mean(dim=1, keepdim=True) if self.centred else W_dec
        return directions * self.norm_weight


def unembedding(model: Any, d_in: int) -> Unembedding | None:
    """The unembedding of a transformers causal LM; None where none reads vectors of width d_in right behind a norm."""
    head = model.get_output_embeddings()
    if head is None or head.weight.shape[1] != d_in:
        return None
    norm = final_norm(model, head, d_in)
    if norm is None:
        logger.warning("no promoted tokens: between the last layer and the unembedding there is more than a norm")
        return None
    return Unembedding(head.weight.float(), norm.factor.to(head.weight.device), norm.centred)


@torch.inference_mode()
def promoted_and_suppressed(W_dec: Float[Tensor, "d_sae d_model"], head: Unembedding, n: int) -> tuple[Extremes, Extremes]:
    """The ``n`` tokens with the highest and the lowest logit for each decoder row, by the direct path."""
    n = min(n, len(head.W_U))
    promoted, suppressed = [], []
    for rows in _in_chunks(head.rows(W_dec), len(head.W_U)):
        logits = rows @ head.W_U.T
        promoted.append(logits.topk(n))
        suppressed.append(logits.topk(n, largest=False))
    return _extremes(promoted), _extremes(suppressed)


@torch.inference_mode()
def neighbours(W_dec: Float[Tensor, "d_sae d_in"], n: int) -> Extremes:
    """The ``n`` other latents whose decoder rows have the highest cosine with each latent's; fewer where there are fewer."""
    n = min(n, len(W_dec) - 1)
    unit = nn.functional.normalize(W_dec, dim=1)
    found, start = [], 0
    for rows in _in_chunks(unit, len(unit)):
        cosines = rows @ unit.T
        cosines[torch.arange(len(rows)), torch.arange(start, start + len(rows))] = -torch.inf
        found.append(cosines.topk(n))
        start += len(rows)
    return _extremes(found)


def _in_chunks(rows: Tensor, width: int) -> Iterator[Tensor]:
    return in_chunks(rows, chunk_rows(width, rows.device))


def _extremes(parts: list[torch.return_types.topk]) -> Extremes:
    indices, values = (torch.cat(column).cpu() for column in zip(*((p.indices, p.values) for p in parts), strict=True))
    return Extremes(indices, values)
