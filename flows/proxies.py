"""Proxies are for the world outside: they are not to hear what this machine's own servers are asked, nor the password."""

import ipaddress
import os
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost")


def spare_loopback(url: str) -> None:
    """Where a URL is of this machine, have this process and its children reach it without the proxy that may be set."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # such as http://[x; that no server answers there is told elsewhere
        return
    if not _is_loopback(host):
        return
    # Who reads one of the two spellings forgets the other, so each has to say all that either said.
    said = {name: os.environ.get(name) or os.environ.get(name.swapcase(), "") for name in ("NO_PROXY", "no_proxy")}
    for name, hosts in said.items():
        spared = [part.strip() for part in hosts.split(",") if part.strip()]
        os.environ[name] = ",".join(dict.fromkeys([*spared, *LOOPBACK, host]))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
