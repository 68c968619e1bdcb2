"""Where a webhook may go. A name is resolved once, every address it has is checked, and the connection goes to that very
address: a name that changes its answer in between (DNS rebinding) gains nothing."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from monitor.errors import Rejectable, Retryable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str, int], Sequence[str]]
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_CGNAT = ipaddress.ip_network("100.64.0.0/10")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A checked destination: connect to `address`, say `host` in Host and SNI."""

    scheme: str
    host: str
    port: int
    address: str
    path: str


def system_lookup(host: str, port: int) -> list[str]:
    """Addresses of a name, in the system's order."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def resolve(url: str, *, allow_http: bool, allow_private: bool, lookup: Lookup = system_lookup) -> Target:
    """Raises Rejectable for a destination that is not allowed, Retryable when the name has no address now."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (allow_http and parts.scheme == "http"):
        raise Rejectable("receiver url: only https is allowed (http with allow_http = true)", reason="not_https")
    if not parts.hostname or parts.username or parts.password:
        raise Rejectable("receiver url: needs a host and no user or password", reason="bad_url")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as err:
        raise Rejectable("receiver url: the port is not a number", reason="bad_url") from err
    try:
        addresses = lookup(parts.hostname, port)
    except (OSError, UnicodeError) as err:
        raise Retryable(f"receiver host {parts.hostname}: no address ({type(err).__name__})") from err
    if not addresses:
        raise Retryable(f"receiver host {parts.hostname}: no address")
    for text in addresses:
        if not allow_private and not is_public(ipaddress.ip_address(text.split("%")[0])):
            raise Rejectable(
                f"receiver host {parts.hostname}: {text} is not a public address; allow_private = true would allow it",
                reason="private_address",
            )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(scheme=parts.scheme, host=parts.hostname, port=port, address=addresses[0], path=path)


def is_public(address: Address) -> bool:
    """Global unicast, seen through every IPv4 address that an IPv6 one may carry inside."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and any(address in network for network in _NAT64):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None and not is_public(inner):
            return False
        if address.is_site_local:
            return False
    elif address in _CGNAT:
        return False
    return address.is_global and not (
        address.is_multicast
        or address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_reserved
        or address.is_unspecified
    )
