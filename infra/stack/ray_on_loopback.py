"""The command ``ray`` for several nodes of one cluster on one machine, none of which answers beyond it.

Left to itself, Ray 2.60 takes 127.0.0.1 for the machine's outward address and listens on every interface there; its nodes
share fixed ports; where two start at once, both take the same socket and one aborts; and where a machine is busy, it gives
up after 15 s or 30 s.
"""

import fcntl
import os
import sys
from pathlib import Path
from typing import Any

from ray._private import ray_constants, services

from tasks.ray_local_cluster import agents_ports, patient

OBJECT_STORE_BYTES = 256 * 2**20
"""Activations never pass through it."""
START_TIMEOUT_S = 600.0


def main(arguments: list[str]) -> Any:
    """What ``ray`` does with these arguments."""
    services.get_node_ip_address = lambda address=None: "127.0.0.1"
    # Its environment variable keeps Ray's processes on loopback. But it also says that no node may join another, which
    # the command line asks here.
    ray_constants.ENABLE_RAY_CLUSTER = True
    if arguments[:1] == ["start"]:
        _wait_for_others()
        arguments = [*arguments, *_for_one_of_several()]
    sys.argv = ["ray", *arguments]
    from ray.scripts.scripts import main as ray

    return ray()


def _wait_for_others() -> None:
    """Hold the lock in Ray's folder until this node is there: the names of sockets that are not there yet are free."""
    folder = Path(os.environ["RAY_TMPDIR"])
    folder.mkdir(exist_ok=True)
    lock = os.open(folder / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    ask = patient(services.get_node, START_TIMEOUT_S)

    def asking(*given: Any) -> Any:
        found = ask(*given)
        fcntl.flock(lock, fcntl.LOCK_UN)
        return found

    services.get_node = asking


def _for_one_of_several() -> list[str]:
    ports = agents_ports()
    listen = ports["dashboard_agent_listen_port"]
    popen = services.ConsolePopen

    def telling(command: list[str], **how: Any) -> Any:
        # The raylet ends if its agent has not told it this port after 15 s.
        told = [f"--dashboard_agent_listen_port={listen}"] if command[0].endswith("/raylet") else []
        return popen([*command, *told], **how)

    services.ConsolePopen = telling
    return [
        f"--dashboard-agent-listen-port={listen}",
        f"--dashboard-agent-grpc-port={ports['metrics_agent_port']}",
        f"--runtime-env-agent-port={ports['runtime_env_agent_port']}",
        f"--metrics-export-port={ports['metrics_export_port']}",
        "--min-worker-port=0",  # whichever the system has
        "--max-worker-port=0",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
