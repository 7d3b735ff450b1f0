"""Exports in the other libraries' own classes."""
