//! Rows of the chapters about the network and names.

use super::{Holds, NotTried, Partly, Row, row};

pub(super) const ROWS: &[Row] = &[
    row(
        "NET-01",
        "connect to an address that is not allowed, any port",
        Holds,
    ),
    row(
        "NET-02",
        "an allowed name as server name or `Host`, to another address",
        Holds,
    ),
    row(
        "NET-03",
        "QUIC: UDP to 443, 80, 8443",
        Partly("no HTTP/3 client is tried, only its datagrams and TCP after them"),
    ),
    row(
        "NET-04",
        "other datagrams: NTP, STUN, WireGuard, DTLS",
        Holds,
    ),
    row("NET-05", "data in pings", Holds),
    row(
        "NET-06",
        "other protocols of IP: GRE, SCTP, IPIP, ESP and more",
        Holds,
    ),
    row("NET-07", "IPv6, and IPv4 inside of it", Holds),
    row(
        "NET-08",
        "metadata services, by address, number and name",
        Holds,
    ),
    row(
        "NET-09",
        "the host's own services, its LAN, the gateway, other private networks",
        Holds,
    ),
    row(
        "NET-10",
        "frames in others' names, VLAN tags, ARP, DHCP, router advertisements, multicast",
        Holds,
    ),
    row(
        "NET-11",
        "fragments, single bytes, data in the SYN, broken packets",
        Holds,
    ),
    row(
        "NET-12",
        "root changes addresses, routes, name servers and rules of its guest",
        Holds,
    ),
    row("NET-13", "vsock to the host", Holds),
    row(
        "NET-14",
        "packets before the policy is there",
        Partly("15 sandboxes are created, not ten thousand"),
    ),
    row(
        "NET-15",
        "connections that stay open while the policy is tightened",
        Holds,
    ),
    row("NET-16", "the proxy is killed", Holds),
    row(
        "NET-17",
        "flows, placeholders or identity of another sandbox of the same template",
        Partly("sandboxes cannot be saved and restored by users yet"),
    ),
    row(
        "NET-18",
        "more connections than there may be, slow and idle ones",
        Partly(
            "a neighbour in a real sandbox may be five times slower, since emulated guests share processors",
        ),
    ),
    row(
        "NET-19",
        "random frames for the stack in user space",
        NotTried("there is no stack in user space; every sandbox is behind the kernel's"),
    ),
    row(
        "NET-20",
        "an allowed host on a port that its entry does not name",
        Holds,
    ),
    row("NET-21", "through another process of the guest", Holds),
    row(
        "NET-22",
        "CONNECT to addresses and other names",
        Partly("there is no listener for explicit proxying to agree with"),
    ),
    row(
        "NET-23",
        "names with NUL, CR, `%00`, spaces, dots, other scripts; SOCKS5",
        Holds,
    ),
    row(
        "DNS-01",
        "data in names of a zone that is not allowed",
        Holds,
    ),
    row("DNS-02", "other types, classes and operations", Holds),
    row("DNS-03", "another name server, by UDP and TCP", Holds),
    row(
        "DNS-04",
        "DNS over TLS, QUIC and HTTPS to well-known servers",
        Holds,
    ),
    row(
        "DNS-05",
        "DNS over HTTPS at an allowed host",
        Partly("a rule has to be written; no rule is there by default"),
    ),
    row(
        "DNS-06",
        "an allowed name that turns to a private address",
        Holds,
    ),
    row(
        "DNS-07",
        "an allowed name with private addresses among public ones, or an alias of one inside",
        Holds,
    ),
    row(
        "DNS-08",
        "keys for encrypted hellos and HTTP/3 in HTTPS and SVCB records",
        Holds,
    ),
    row("DNS-09", "data in labels below an allowed wildcard", Holds),
    row(
        "DNS-10",
        "malformed questions, loops, odd labels, options",
        Holds,
    ),
    row(
        "DNS-11",
        "`/etc/hosts` leads an allowed name elsewhere",
        Holds,
    ),
    row(
        "DNS-12",
        "addresses that stand for no name, or no longer for the same",
        Holds,
    ),
    row(
        "DNS-13",
        "data in names where everything public is allowed",
        Holds,
    ),
];
