"""Which addresses a bucket may live at. A bucket's URL comes from the chain: without this rule, whoever registers one
could make every party ask its own metadata service.

Judged on the address of the connected socket, so neither DNS tricks nor redirects get around it.
"""

import ipaddress

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_SHARED = ipaddress.ip_network("100.64.0.0/10")  # carrier-grade NAT (RFC 6598); clouds put internal services there
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_SITE_LOCAL = ipaddress.ip_network("fec0::/10")


def is_public(peer: str) -> bool:
    """Whether `peer`, a numeric address as `getpeername` gives it, is on the public internet.

    Loopback, private, link-local, shared, multicast, reserved and unspecified addresses are not, nor is an IPv6
    address that carries such an IPv4 address (mapped, 6to4, NAT64, Teredo). What is no address is not public either.
    """
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        carried = _carried(address)
        if carried:
            return all(_is_public(inner) for inner in carried)
        if address in _SITE_LOCAL:
            return False
    return _is_public(address)


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address) and address in _SHARED:
        return False
    return not (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
    )


def _carried(address: ipaddress.IPv6Address) -> tuple[ipaddress.IPv4Address, ...]:
    """IPv4 addresses to which packets for `address` end up going, if it is a wrapping of them."""
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address in _NAT64:
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    return ()
