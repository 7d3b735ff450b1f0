"""Recurring training: warm starts and gates, plans beside runs, and publishing."""
