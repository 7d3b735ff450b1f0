"""Versions of SAEs under a name, and which of them is in use: files on the storage of the results, and no service."""

from tasks.registry.reference import resolve
from tasks.registry.verdicts import StoredVerdict, store_verdict, verdict_of

__all__ = ["StoredVerdict", "resolve", "store_verdict", "verdict_of"]
