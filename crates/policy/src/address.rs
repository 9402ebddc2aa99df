//! What kind of address this is, and whether a policy may open it at all.
//!
//! An IPv6 address may carry an IPv4 address inside. It is unpacked first, so
//! that `::ffff:169.254.169.254` is what it is. The table follows the IANA
//! special-purpose registries (RFC 6890 and its successors).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// Reachable by everybody.
    Public,
    /// A network of somebody's own: RFC 1918, RFC 4193.
    Private,
    /// Shared by the customers of a carrier, and by overlay networks: RFC 6598.
    CarrierNat,
    /// The host itself: RFC 1122, RFC 4291.
    Loopback,
    /// One link: RFC 3927, RFC 4291, RFC 3879.
    LinkLocal,
    /// Where a cloud tells a machine who it is, and hands out credentials.
    Metadata,
    /// Many receivers, or all: RFC 5771, RFC 4291, RFC 919.
    Multicast,
    /// For examples in texts: RFC 5737, RFC 3849, RFC 9637.
    Documentation,
    /// For measurements, and here the addresses that stand for names: RFC 2544, RFC 5180.
    Benchmarking,
    /// A tunnel that carries IPv4 and that nobody operates any more: 6to4, Teredo, SIIT.
    Transition,
    /// Everything that no registry gives to anybody, and the unspecified address.
    Reserved,
}

impl AddressClass {
    /// The stable name, as in audit records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::CarrierNat => "carrier_nat",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link_local",
            Self::Metadata => "metadata",
            Self::Multicast => "multicast",
            Self::Documentation => "documentation",
            Self::Benchmarking => "benchmarking",
            Self::Transition => "transition",
            Self::Reserved => "reserved",
        }
    }

    /// Whether an allow list may open it when it names the address and the
    /// operator permits it. Every other class that is not public stays closed.
    pub fn is_openable(self) -> bool {
        matches!(self, Self::Private | Self::CarrierNat)
    }
}

/// An address with what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    pub class: AddressClass,
    /// What to dial: the IPv4 address of an IPv4-mapped one, otherwise what was given.
    pub dial: IpAddr,
    /// What entries of a policy are compared with: the IPv4 address inside, if there is one.
    pub compared: IpAddr,
}

/// Says what `address` is, after unpacking an IPv4 address it may carry (NET-07).
pub fn classify(address: IpAddr) -> Classified {
    match address {
        IpAddr::V4(v4) => plain(address, classify_v4(v4)),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

fn plain(address: IpAddr, class: AddressClass) -> Classified {
    Classified {
        class,
        dial: address,
        compared: address,
    }
}

const METADATA_V4: [Ipv4Addr; 9] = [
    // Nearly every cloud.
    Ipv4Addr::new(169, 254, 169, 254),
    // AWS: resolver, ECS task credentials, EKS pod identity.
    Ipv4Addr::new(169, 254, 169, 253),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    // Scaleway and Tencent Cloud.
    Ipv4Addr::new(169, 254, 42, 42),
    Ipv4Addr::new(169, 254, 0, 23),
    // Azure's wire server, which is a public address.
    Ipv4Addr::new(168, 63, 129, 16),
    // Alibaba Cloud, in the carriers' range.
    Ipv4Addr::new(100, 100, 100, 200),
    // Oracle Cloud.
    Ipv4Addr::new(192, 0, 0, 192),
];

const METADATA_V6: [Ipv6Addr; 5] = [
    // AWS: instance metadata and EKS pod identity.
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    // Google Cloud.
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    // Scaleway.
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    // OpenStack.
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];

/// The first range that holds an address decides.
const RANGES_V4: [(Ipv4Net, AddressClass); 17] = [
    (net4(0, 0, 0, 0, 8), AddressClass::Reserved),
    (net4(10, 0, 0, 0, 8), AddressClass::Private),
    (net4(100, 64, 0, 0, 10), AddressClass::CarrierNat),
    (net4(127, 0, 0, 0, 8), AddressClass::Loopback),
    (net4(169, 254, 0, 0, 16), AddressClass::LinkLocal),
    (net4(172, 16, 0, 0, 12), AddressClass::Private),
    (net4(192, 0, 0, 0, 24), AddressClass::Reserved),
    (net4(192, 0, 2, 0, 24), AddressClass::Documentation),
    (net4(192, 31, 196, 0, 24), AddressClass::Reserved),
    (net4(192, 52, 193, 0, 24), AddressClass::Reserved),
    (net4(192, 88, 99, 0, 24), AddressClass::Transition),
    (net4(192, 168, 0, 0, 16), AddressClass::Private),
    (net4(198, 18, 0, 0, 15), AddressClass::Benchmarking),
    (net4(198, 51, 100, 0, 24), AddressClass::Documentation),
    (net4(203, 0, 113, 0, 24), AddressClass::Documentation),
    (net4(224, 0, 0, 0, 4), AddressClass::Multicast),
    (net4(240, 0, 0, 0, 4), AddressClass::Reserved),
];

/// The first range that holds an address decides; what none holds is reserved.
const RANGES_V6: [(Ipv6Net, AddressClass); 13] = [
    (net6([0, 0, 0, 0, 0, 0, 0, 1], 128), AddressClass::Loopback),
    (
        net6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
        AddressClass::Private,
    ),
    (
        net6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
        AddressClass::LinkLocal,
    ),
    // The site-local addresses that RFC 3879 took back.
    (
        net6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
        AddressClass::LinkLocal,
    ),
    (
        net6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
        AddressClass::Multicast,
    ),
    (
        net6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
        AddressClass::Documentation,
    ),
    (
        net6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
        AddressClass::Documentation,
    ),
    (
        net6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48),
        AddressClass::Benchmarking,
    ),
    // NAT64 inside one network (RFC 8215): where the IPv4 address stands is not known.
    (
        net6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
        AddressClass::Transition,
    ),
    (
        net6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
        AddressClass::Reserved,
    ),
    (
        net6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48),
        AddressClass::Reserved,
    ),
    (
        net6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16),
        AddressClass::Reserved,
    ),
    (net6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3), AddressClass::Public),
];

const fn net4(a: u8, b: u8, c: u8, d: u8, prefix_len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix_len)
}

const fn net6(s: [u16; 8], prefix_len: u8) -> Ipv6Net {
    let address = Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]);
    Ipv6Net::new_assert(address, prefix_len)
}

fn classify_v4(address: Ipv4Addr) -> AddressClass {
    if METADATA_V4.contains(&address) {
        return AddressClass::Metadata;
    }
    if address.is_broadcast() {
        return AddressClass::Multicast;
    }
    RANGES_V4
        .iter()
        .find(|(range, _)| range.contains(&address))
        .map_or(AddressClass::Public, |(_, class)| *class)
}

fn classify_v6(address: Ipv6Addr) -> Classified {
    let outer = IpAddr::V6(address);
    if METADATA_V6.contains(&address) {
        return plain(outer, AddressClass::Metadata);
    }
    match unpack(address) {
        Some((Carrier::Mapped, inner)) => plain(IpAddr::V4(inner), classify_v4(inner)),
        // A network with NAT64 has no other way to IPv4, so what is public stays so.
        Some((Carrier::Nat64, inner)) => Classified {
            class: classify_v4(inner),
            dial: outer,
            compared: IpAddr::V4(inner),
        },
        Some((Carrier::Tunnel, inner)) => {
            let class = match classify_v4(inner) {
                AddressClass::Public => AddressClass::Transition,
                // What is closed keeps its own reason; nothing here can be opened.
                class if class.is_openable() => AddressClass::Transition,
                class => class,
            };
            plain(outer, class)
        }
        None => plain(outer, class_of_range_v6(address)),
    }
}

fn class_of_range_v6(address: Ipv6Addr) -> AddressClass {
    RANGES_V6
        .iter()
        .find(|(range, _)| range.contains(&address))
        .map_or(AddressClass::Reserved, |(_, class)| *class)
}

/// How an IPv6 address carries an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    /// `::ffff:a.b.c.d`: another way to write it (RFC 4291).
    Mapped,
    /// `64:ff9b::a.b.c.d`: by the network's translator (RFC 6052).
    Nat64,
    /// SIIT (RFC 2765), IPv4-compatible (RFC 4291), 6to4 (RFC 3056), Teredo (RFC 4380)
    /// and ISATAP (RFC 5214).
    Tunnel,
}

fn unpack(address: Ipv6Addr) -> Option<(Carrier, Ipv4Addr)> {
    let segments = address.segments();
    let [.., high, low] = segments;
    let last = from_segments(high, low);
    match segments {
        [0, 0, 0, 0, 0, 0xffff, ..] => Some((Carrier::Mapped, last)),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some((Carrier::Nat64, last)),
        [0x2002, high, low, ..] => Some((Carrier::Tunnel, from_segments(high, low))),
        // Teredo writes the client's address inverted.
        [0x2001, 0, ..] => Some((Carrier::Tunnel, from_segments(!high, !low))),
        // SIIT, IPv4-compatible (but for `::` and `::1`, which are no IPv4 addresses), ISATAP.
        [0, 0, 0, 0, 0xffff, 0, ..] | [_, _, _, _, 0 | 0x200, 0x5efe, ..] => {
            Some((Carrier::Tunnel, last))
        }
        [0, 0, 0, 0, 0, 0, ..] if high != 0 => Some((Carrier::Tunnel, last)),
        _ => None,
    }
}

fn from_segments(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
}

/// The closed range that `range` lies in as a whole, if it lies in one that may be opened.
///
/// `10.0.0.0/8` opens what it names. `0.0.0.0/0` holds private ranges too, but whoever
/// writes it means the Internet, so it opens none of them.
pub(crate) fn openable_class(range: &IpNet) -> Option<AddressClass> {
    openable_ranges()
        .find(|(outer, _)| outer.contains(range))
        .map(|(_, class)| class)
}

/// The ranges that an operator may open.
pub(crate) fn openable_ranges() -> impl Iterator<Item = (IpNet, AddressClass)> {
    let v4 = RANGES_V4.map(|(net, class)| (IpNet::V4(net), class));
    let v6 = RANGES_V6.map(|(net, class)| (IpNet::V6(net), class));
    v4.into_iter()
        .chain(v6)
        .filter(|(_, class)| class.is_openable())
}

#[cfg(test)]
mod tests;
