//! Who is who in a slot. The same in every slot: slots do not see each other,
//! and a guest restored from a template keeps the addresses it was saved with.
//!
//! IPv4 is from the shared address space of RFC 6598, the range least likely to
//! be wanted inside a sandbox: container engines, clusters and home networks
//! take theirs from RFC 1918, and names are answered from 198.18.0.0/15. IPv6 is
//! a unique local prefix (RFC 4193) that spells `Tombo`; nothing ever routes it,
//! so it needs no randomness. With such a source, RFC 6724 makes guests prefer
//! IPv4 to a destination that has both.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The name of the tap in every slot.
pub const TAP_NAME: &str = "tap0";
/// Hardware address of a guest's network card; locally administered.
pub const GUEST_MAC: [u8; 6] = [0x02, 0x54, 0x6f, 0x6d, 0x62, 0x02];
/// Hardware address of the other end, to which a guest sends everything.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x54, 0x6f, 0x6d, 0x62, 0x01];
/// A guest's only IPv4 address.
pub const GUEST_IPV4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
/// A guest's default route and name server.
pub const GATEWAY_IPV4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
/// Length of the IPv4 prefix that guest and gateway share.
pub const IPV4_PREFIX_LEN: u8 = 30;
/// A guest's only IPv6 address, besides the link-local one it may not use here.
pub const GUEST_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd54, 0x6f6d, 0x626f, 0, 0, 0, 0, 2);
/// A guest's default route in IPv6.
pub const GATEWAY_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd54, 0x6f6d, 0x626f, 0, 0, 0, 0, 1);
/// Length of the IPv6 prefix that guest and gateway share.
pub const IPV6_PREFIX_LEN: u8 = 64;
/// Largest packet on the link, without its Ethernet header.
pub const MTU: u32 = 1500;
/// The only UDP port that is answered.
pub const DNS_PORT: u16 = 53;

/// Where the TCP sockets of a slot listen, on the loopback addresses. No guest
/// can name these as a destination.
pub(crate) const PROXY_PORT: u16 = 15_001;
/// Marks packets that belong to a socket of the slot.
pub(crate) const PROXY_MARK: u32 = 1;
/// The routing table for them.
pub(crate) const PROXY_TABLE: u32 = 100;
