//! What the kernel is told about a new namespace. Each line is said although
//! most are defaults somewhere: a new namespace inherits the host's settings,
//! and a host may be a router.
//!
//! A thread sees the settings of the namespace it is in.

use std::io;

const ROOT: &str = "/proc/sys/net";

/// For `all` interfaces, and the `default` of those to come.
const IPV4_INTERFACES: [(&str, &str); 11] = [
    ("forwarding", "0"),
    ("accept_local", "0"),
    ("accept_redirects", "0"),
    ("accept_source_route", "0"),
    ("arp_accept", "0"),
    ("arp_ignore", "1"),
    // A guest could fill the host's log.
    ("log_martians", "0"),
    ("proxy_arp", "0"),
    ("route_localnet", "0"),
    ("rp_filter", "1"),
    ("send_redirects", "0"),
];

const IPV6_INTERFACES: [(&str, &str); 9] = [
    ("disable_ipv6", "0"),
    ("forwarding", "0"),
    ("accept_ra", "0"),
    ("accept_redirects", "0"),
    ("accept_source_route", "0"),
    // No link-local address: nothing may be said to it.
    ("addr_gen_mode", "1"),
    ("autoconf", "0"),
    // Our address is usable at once; nobody else is there to have it.
    ("accept_dad", "0"),
    ("proxy_ndp", "0"),
];

const WHOLE: [(&str, &str); 9] = [
    ("ipv4/ip_forward", "0"),
    ("ipv4/icmp_echo_ignore_all", "1"),
    // The rules limit how often a guest is refused. The kernel's own limit is
    // one a second, and for all namespaces together.
    ("ipv4/icmp_ratemask", "0"),
    ("ipv6/icmp/echo_ignore_all", "1"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv6/icmp/ratemask", "\n"),
    // Fragments that wait for the rest of their packet.
    ("ipv4/ipfrag_low_thresh", "786432"),
    ("ipv4/ipfrag_high_thresh", "1048576"),
    ("ipv4/tcp_syncookies", "1"),
];

/// Tells the calling thread's namespace.
pub(crate) fn configure() -> io::Result<()> {
    for (name, value) in WHOLE {
        set(name, value)?;
    }
    for (family, settings) in [("ipv4", &IPV4_INTERFACES[..]), ("ipv6", &IPV6_INTERFACES)] {
        for (name, value) in settings {
            for interfaces in ["all", "default"] {
                set(&format!("{family}/conf/{interfaces}/{name}"), value)?;
            }
        }
    }
    Ok(())
}

fn set(name: &str, value: &str) -> io::Result<()> {
    fs_err::write(format!("{ROOT}/{name}"), value)
}
