"""The hits from which contexts are chosen, kept on a device: the same hits, in the same order, as ``examples.py`` keeps.

Of a million rows of 64 latents, 64M hits are looked at. All but a few cannot enter their latent's list, so that they are
dropped where they are made, and the lists are sorted anew only now and then.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor
from typing_extensions import override

from tasks.encode.codes import TensorCodes
from tasks.score.examples import Evidence, Hits

_HITS_AT_ONCE = 2**22
"""Hits that wait to be merged, of 28 bytes each; their sorting takes as much again."""
_LARGEST_INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TensorHits:
    """Single activations: ``value`` of ``latent`` at ``row`` (its number among all rows scored) of ``sequence``."""

    latent: Int64[Tensor, "m"]
    value: Float32[Tensor, "m"]
    row: Int64[Tensor, "m"]
    sequence: Int64[Tensor, "m"]

    def __len__(self) -> int:
        return len(self.latent)

    def take(self, index: Int64[Tensor, "n"]) -> "TensorHits":
        """The hits at ``index``, in its order."""
        return TensorHits(self.latent[index], self.value[index], self.row[index], self.sequence[index])

    def where(self, wanted: Bool[Tensor, "m"]) -> "TensorHits":
        """Some of the hits, in their order."""
        return self.take(wanted.nonzero()[:, 0])

    @staticmethod
    def joined(parts: "Sequence[TensorHits]") -> "TensorHits":
        """All hits of all parts, of which there is one."""
        columns = zip(*((part.latent, part.value, part.row, part.sequence) for part in parts), strict=True)
        return TensorHits(*(torch.cat(column) for column in columns))

    @staticmethod
    def none(device: torch.device) -> "TensorHits":
        """No hits."""
        empty = torch.zeros(0, dtype=torch.int64, device=device)
        return TensorHits(empty, torch.zeros(0, device=device), empty, empty)

    @staticmethod
    def of(codes: TensorCodes, first_row: int, sequence: Int64[Tensor, "n"]) -> "TensorHits":
        """The hits of n rows that begin at ``first_row`` and lie in ``sequence``."""
        rows = codes.rows
        return TensorHits(codes.latents, codes.values, rows + first_row, sequence[rows])

    def in_main_memory(self) -> Hits:
        """The same hits as numpy arrays."""
        return Hits(*(part.cpu().numpy() for part in (self.latent, self.value, self.row, self.sequence)))


class EvidenceOnDevice:
    """The evidence of all hits that were seen; rows must come in ascending order."""

    def __init__(self, none: Evidence, d_sae: int, device: torch.device) -> None:
        self._none = none
        self._top, self._sample = _Strongest(none.n_top, d_sae, device), _Sampled(none.n_sample, d_sae, device)

    def see(self, hits: TensorHits) -> None:
        """Look at further hits, of later rows than all before."""
        self._top.see(hits)
        self._sample.see(hits)

    def kept(self) -> Evidence:
        """Of all hits so far, in main memory."""
        found = (part.kept().in_main_memory() for part in (self._top, self._sample))
        return Evidence(self._none.n_top, self._none.n_sample, *found)


class _KeptLists:
    """For each latent the first ``n`` of all hits in some order."""

    def __init__(self, n: int, device: torch.device) -> None:
        self._n = n
        self._hits = TensorHits.none(device)
        self._waiting: list[TensorHits] = []

    def see(self, hits: TensorHits) -> None:
        if self._n:
            self._waiting.append(hits.where(self._may_enter(hits)))
        if sum(map(len, self._waiting)) > _HITS_AT_ONCE:
            self._merge()

    def kept(self) -> TensorHits:
        self._merge()
        return self._hits

    def _merge(self) -> None:
        ordered = self._in_order(TensorHits.joined([self._hits, *self._waiting]))
        rank = rank_in_group(ordered.latent)
        self._hits, self._waiting = ordered.where(rank < self._n), []
        self._note_last(ordered.where(rank == self._n - 1))

    def _may_enter(self, hits: TensorHits) -> Bool[Tensor, "m"]:
        """False of those that come behind all of a full list."""
        raise NotImplementedError

    def _in_order(self, hits: TensorHits) -> TensorHits:
        """By latent, and the first hit of each list first."""
        raise NotImplementedError

    def _note_last(self, last: TensorHits) -> None:
        """Remember the last hit of each list that is full."""
        raise NotImplementedError


class _Strongest(_KeptLists):
    """Strongest first and of distinct sequences; among equals the earlier row."""

    def __init__(self, n: int, d_sae: int, device: torch.device) -> None:
        super().__init__(n, device)
        self._weakest = torch.zeros(d_sae, device=device)

    @override
    def _may_enter(self, hits: TensorHits) -> Bool[Tensor, "m"]:
        return hits.value > self._weakest[hits.latent]  # an equal one comes behind, being of a later row

    @override
    def _in_order(self, hits: TensorHits) -> TensorHits:
        # The bits of positive floats are in the floats' order. A stable sort leaves earlier rows before later ones.
        weakness = 0x7FFFFFFF - hits.value.view(torch.int32).long()
        ordered = hits.take(((hits.latent << 32) | weakness).argsort(stable=True))
        return ordered.where(_first_of_each_sequence(ordered))

    @override
    def _note_last(self, last: TensorHits) -> None:
        self._weakest[last.latent] = last.value


class _Sampled(_KeptLists):
    """Those of lowest priority first."""

    def __init__(self, n: int, d_sae: int, device: torch.device) -> None:
        super().__init__(n, device)
        self._last = torch.full((d_sae,), _LARGEST_INT64, device=device)

    @override
    def _may_enter(self, hits: TensorHits) -> Bool[Tensor, "m"]:
        return priority(hits) <= self._last[hits.latent]

    @override
    def _in_order(self, hits: TensorHits) -> TensorHits:
        # No two hits of a latent have the same priority: the hash of different rows differs.
        ordered = hits.take(priority(hits).argsort())
        return ordered.take(ordered.latent.argsort(stable=True))

    @override
    def _note_last(self, last: TensorHits) -> None:
        self._last[last.latent] = priority(last)


def priority(hits: TensorHits) -> Int64[Tensor, "m"]:
    """The hash of ``examples.priority`` less 2^63, since torch's numbers of 64 bits have a sign: the order is the same."""
    mixed = hits.row * _signed(0x9E3779B97F4A7C15) + hits.latent
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    return (mixed ^ _shifted(mixed, 31)) ^ _signed(1 << 63)


def rank_in_group(group: Int64[Tensor, "m"]) -> Int64[Tensor, "m"]:
    """The place of each entry within its run of equal values: [4, 4, 7] gives [0, 1, 0]."""
    place = torch.arange(len(group), device=group.device)
    return place - torch.where(_begins(group), place, 0).cummax(dim=0).values


def _first_of_each_sequence(hits: TensorHits) -> Bool[Tensor, "m"]:
    """Which hits are the first of their latent and sequence; sequences stay below 2^40 and latents below 2^23."""
    pair = (hits.latent << 40) | hits.sequence
    order = pair.argsort(stable=True)
    return torch.zeros_like(pair, dtype=torch.bool).index_put_((order,), _begins(pair[order]))


def _begins(group: Int64[Tensor, "m"]) -> Bool[Tensor, "m"]:
    """Which entries differ from the one before them, or have none before them."""
    found = torch.ones_like(group, dtype=torch.bool)
    found[1:] = group[1:] != group[:-1]
    return found


def _signed(bits: int) -> int:
    """The number that these 64 bits stand for where the first is a sign."""
    return bits - 2**64 if bits >= 2**63 else bits


def _shifted(numbers: Int64[Tensor, "m"], n: int) -> Int64[Tensor, "m"]:
    """Bits shifted to the right, with zeros in their place; torch repeats the sign."""
    return (numbers >> n) & ((1 << (64 - n)) - 1)
