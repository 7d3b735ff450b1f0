"""``python -m infra.stack up|down|status|env --dir DIR``: the services of ``infra/compose.yaml`` without containers.

Commands, environment and health checks are the compose file's own. What containers would give besides (a network, disks,
what an image starts) stands in for here: every service listens on loopback at a free port and keeps its files in DIR.
"""
