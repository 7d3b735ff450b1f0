"""What the deployments begin with. It is said here once, for ``saemill serve``, whose help shows it, and for workers' pools.

This file knows nothing of Prefect, which the command line imports only when it serves.
"""

CONFIGURATION = "demo"
"""Name of the configuration that the forms of ``pipeline`` and ``sweep`` begin with."""
NIGHTLY = "nightly"
"""Name of the configuration that runs by the clock."""
CRON = "17 2 * * *"
"""Not on the hour, when everybody's jobs start."""
TIMEZONE = "Europe/London"
