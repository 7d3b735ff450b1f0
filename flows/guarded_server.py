"""Prefect's server behind ``Guard``, in a process of its own: ``python -m flows.guarded_server PORT FD``.

``prefect server start`` offers no place for a layer before the server; apart from that layer this does what it does
(prefect 3.8.8, cli/_server_utils.py).

It serves at a socket that the process before it listens at, and has handed on as the file descriptor FD.
"""

import socket
import sys

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import (
    PREFECT_SERVER_API_KEEPALIVE_TIMEOUT,
    PREFECT_SERVER_API_WEBSOCKET_PING_INTERVAL,
    PREFECT_SERVER_API_WEBSOCKET_PING_TIMEOUT,
    PREFECT_SERVER_LOGGING_LEVEL,
)

from flows.guard import Guard

HOST = "127.0.0.1"


def main(port: int, place: socket.socket) -> None:
    """Serve until SIGTERM."""
    config = uvicorn.Config(
        Guard(create_app(final=True), f"{HOST}:{port}" if port != 80 else HOST),
        proxy_headers=False,
        timeout_keep_alive=PREFECT_SERVER_API_KEEPALIVE_TIMEOUT.value(),
        ws_ping_interval=PREFECT_SERVER_API_WEBSOCKET_PING_INTERVAL.value(),
        ws_ping_timeout=PREFECT_SERVER_API_WEBSOCKET_PING_TIMEOUT.value(),
        log_level=PREFECT_SERVER_LOGGING_LEVEL.value().lower(),
    )
    server = uvicorn.Server(config)
    server.run(sockets=[place])  # not fd=, by which uvicorn takes it for a Unix socket and leaves Nagle's algorithm on
    if not server.started:
        sys.exit(3)  # as uvicorn.run does


if __name__ == "__main__":
    main(int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
