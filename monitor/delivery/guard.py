"""Where a webhook may go. A name is resolved once, every address it has is checked, and the connection goes to those very
addresses: a name that changes its answer in between (DNS rebinding) gains nothing.

What is not known to be public is refused. The operator may open the private kinds, all or some networks; what no receiver
can be at (link-local with its metadata services, multicast, reserved, tunnels) stays closed whatever he says.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from monitor.errors import Rejectable, Retryable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Lookup = Callable[[str, int], Sequence[str]]


class Reach(StrEnum):
    """Who can be met at an address."""

    PUBLIC = "public"
    PRIVATE = "private"
    NEVER = "never"


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# IANA's registries of special-purpose addresses; own lists, since `is_global` changes with the version of Python.
_PRIVATE_V4 = _networks("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
_NEVER_V4 = _networks(
    "0.0.0.0/8",
    "100.100.100.200/32",  # Alibaba Cloud's metadata
    "168.63.129.16/32",  # Azure's wire server: looks public and is not
    "169.254.0.0/16",  # link-local, with most clouds' metadata at 169.254.169.254
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",  # multicast, reserved, broadcast
)
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")
_PRIVATE_V6 = _networks("::1/128", "fc00::/7")
_NEVER_V6 = _networks(
    "2001::/23",  # Teredo, ORCHID and other protocol assignments
    "2001:db8::/32",
    "2002::/16",  # 6to4
    "3fff::/20",
    "fd00:ec2::/32",  # AWS's metadata
    "fd20:ce::/32",  # Google Cloud's metadata
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # how a network without IPv4 reaches the public one
_ISATAP = (0x00005EFE, 0x02005EFE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A checked destination: connect to one of `addresses`, say `host` in Host and SNI."""

    scheme: str
    host: str
    port: int
    addresses: tuple[str, ...]
    path: str

    @property
    def authority(self) -> str:
        """The Host header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if {"https": 443, "http": 80}[self.scheme] == self.port else f"{host}:{self.port}"


def system_lookup(host: str, port: int) -> list[str]:
    """Addresses of a name, in the system's order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def resolve(
    url: str,
    *,
    allow_http: bool,
    allow_private: bool,
    allow_networks: Sequence[Network] = (),
    lookup: Lookup = system_lookup,
) -> Target:
    """Raises Rejectable for a destination that is not allowed, Retryable when the name has no address now."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = _ascii(parts.hostname or "")
    except ValueError as err:  # the parser's words would quote the URL, which may hold a token
        raise Rejectable("receiver url: host or port can't be read", reason="bad_url") from err
    if parts.scheme != "https" and not (allow_http and parts.scheme == "http"):
        raise Rejectable("receiver url: only https is allowed (http with allow_http = true)", reason="not_https")
    if not host or parts.username is not None or parts.password is not None:
        raise Rejectable("receiver url: needs a host and no user or password", reason="bad_url")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not all("!" <= char <= "~" for char in path):
        raise Rejectable("receiver url: path and query must be ASCII without blanks", reason="bad_url")
    try:
        addresses = tuple(lookup(host, port))
    except (OSError, UnicodeError) as err:
        raise Retryable(f"receiver host {host}: no address ({type(err).__name__})") from err
    if not addresses:
        raise Retryable(f"receiver host {host}: no address")
    for text in addresses:
        _check(host, text, allow_private, allow_networks)
    return Target(scheme=parts.scheme, host=host, port=port, addresses=addresses, path=path)


def is_public(address: Address) -> bool:
    """Global unicast, seen through every IPv4 address that an IPv6 one may carry inside."""
    return reach(address) is Reach.PUBLIC


def reach(address: Address) -> Reach:
    """Who can be met there; NEVER unless known."""
    if isinstance(address, ipaddress.IPv4Address):
        return _among(address, never=_NEVER_V4, private=_PRIVATE_V4, otherwise=Reach.PUBLIC)
    if address.ipv4_mapped is not None:
        return reach(address.ipv4_mapped)
    if address in _NAT64:
        inner = reach(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        return Reach.PUBLIC if inner is Reach.PUBLIC else Reach.NEVER
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return Reach.NEVER
    return _among(
        address,
        never=_NEVER_V6,
        private=_PRIVATE_V6,
        otherwise=Reach.PUBLIC if address in _PUBLIC_V6 else Reach.NEVER,
    )


def _among(address: Address, *, never: Sequence[Network], private: Sequence[Network], otherwise: Reach) -> Reach:
    if any(address in network for network in never):
        return Reach.NEVER
    return Reach.PRIVATE if any(address in network for network in private) else otherwise


def _check(host: str, text: str, allow_private: bool, allow_networks: Sequence[Network]) -> None:
    try:
        address = ipaddress.ip_address(text)
        found = reach(address)
    except ValueError:  # a zone (fe80::1%eth0) says that it is link-local
        found = Reach.NEVER
    if found is Reach.PUBLIC:
        return
    if found is Reach.PRIVATE and (allow_private or any(_inside(address, network) for network in allow_networks)):
        return
    hint = "; allow_networks or allow_private would allow it" if found is Reach.PRIVATE else ", and never a receiver's"
    raise Rejectable(f"receiver host {host}: {text} is not a public address{hint}", reason="private_address")


def _inside(address: Address, network: Network) -> bool:
    """A mapped address is the IPv4 address that it carries."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address) in network


def _ascii(host: str) -> str:
    """A name as DNS knows it. Raises UnicodeError, which is a ValueError."""
    return host if host.isascii() else host.encode("idna").decode("ascii")
