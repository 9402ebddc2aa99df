//! Classes of addresses, by the ids of the attacks they decide.

use proptest::prelude::*;

use super::*;

fn check(text: &str, class: AddressClass) {
    let address = text.parse().expect("an address");
    assert_eq!(classify(address).class, class, "{text}");
}

/// NET-08: metadata services are known in every form.
#[test]
fn net_08_metadata_services_are_known_in_every_form() {
    for text in [
        "169.254.169.254",
        "169.254.170.2",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "::ffff:168.63.129.16",
        "64:ff9b::169.254.169.254",
        "64:ff9b::a83f:8110",
        "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:5601:5601",
        "::ffff:0:169.254.169.254",
        "::169.254.169.254",
        "2001:db8::5efe:169.254.169.254",
        "fe80::a9fe:a9fe",
    ] {
        check(text, AddressClass::Metadata);
    }
}

/// NET-07, NET-09: nothing but public addresses is public.
#[test]
fn net_07_and_net_09_nothing_but_public_addresses_is_public() {
    for (text, class) in [
        ("0.0.0.0", AddressClass::Reserved),
        ("0.1.2.3", AddressClass::Reserved),
        ("10.0.0.1", AddressClass::Private),
        ("172.16.0.1", AddressClass::Private),
        ("172.31.255.255", AddressClass::Private),
        ("172.32.0.0", AddressClass::Public),
        ("192.168.1.1", AddressClass::Private),
        ("100.64.0.1", AddressClass::CarrierNat),
        ("100.128.0.0", AddressClass::Public),
        ("127.0.0.1", AddressClass::Loopback),
        ("127.255.255.255", AddressClass::Loopback),
        ("169.254.1.1", AddressClass::LinkLocal),
        ("192.0.0.8", AddressClass::Reserved),
        ("192.0.2.1", AddressClass::Documentation),
        ("198.18.0.1", AddressClass::Benchmarking),
        ("198.19.255.255", AddressClass::Benchmarking),
        ("198.20.0.0", AddressClass::Public),
        ("203.0.113.9", AddressClass::Documentation),
        ("224.0.0.251", AddressClass::Multicast),
        ("255.255.255.255", AddressClass::Multicast),
        ("240.0.0.1", AddressClass::Reserved),
        ("8.8.8.8", AddressClass::Public),
        ("2606:4700::1", AddressClass::Public),
        ("::", AddressClass::Reserved),
        ("::1", AddressClass::Loopback),
        ("::2", AddressClass::Reserved),
        ("fe80::1", AddressClass::LinkLocal),
        ("fec0::1", AddressClass::LinkLocal),
        ("fc00::1", AddressClass::Private),
        ("fd12:3456::1", AddressClass::Private),
        ("ff02::fb", AddressClass::Multicast),
        ("2001:db8::1", AddressClass::Documentation),
        ("3fff::1", AddressClass::Documentation),
        ("5f00::1", AddressClass::Reserved),
        ("4000::1", AddressClass::Reserved),
        ("100::1", AddressClass::Reserved),
        ("::ffff:10.0.0.1", AddressClass::Private),
        ("::ffff:8.8.8.8", AddressClass::Public),
        ("::ffff:127.0.0.1", AddressClass::Loopback),
        ("64:ff9b::8.8.8.8", AddressClass::Public),
        ("64:ff9b::10.0.0.1", AddressClass::Private),
        ("64:ff9b:1::8.8.8.8", AddressClass::Transition),
        ("2002:808:808::1", AddressClass::Transition),
        ("2002:7f00:1::1", AddressClass::Loopback),
        ("2002:a00:1::1", AddressClass::Transition),
        (
            "2001:0:4136:e378:8000:63bf:f7f7:f7f7",
            AddressClass::Transition,
        ),
        ("::ffff:0:8.8.8.8", AddressClass::Transition),
        ("::8.8.8.8", AddressClass::Transition),
        ("fe80::5efe:8.8.8.8", AddressClass::Transition),
    ] {
        check(text, class);
    }
}

#[test]
fn what_is_dialled_is_what_was_classified() {
    for (text, dial, compared) in [
        ("::ffff:8.8.8.8", "8.8.8.8", "8.8.8.8"),
        ("64:ff9b::8.8.8.8", "64:ff9b::8.8.8.8", "8.8.8.8"),
        ("2606:4700::1", "2606:4700::1", "2606:4700::1"),
        ("8.8.8.8", "8.8.8.8", "8.8.8.8"),
    ] {
        let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
        let classified = classify(parse(text));
        assert_eq!(classified.dial, parse(dial), "{text}");
        assert_eq!(classified.compared, parse(compared), "{text}");
    }
}

#[test]
fn ranges_open_what_they_lie_in() {
    for (text, class) in [
        ("10.0.0.0/8", Some(AddressClass::Private)),
        ("10.1.2.3/32", Some(AddressClass::Private)),
        ("100.64.0.0/10", Some(AddressClass::CarrierNat)),
        ("fd00::/8", Some(AddressClass::Private)),
        ("0.0.0.0/0", None),
        ("8.0.0.0/5", None),
        ("127.0.0.0/8", None),
        ("169.254.0.0/16", None),
        ("8.8.8.0/24", None),
        ("::/0", None),
        ("f000::/4", None),
    ] {
        let range: IpNet = text.parse().expect("a range");
        assert_eq!(openable_class(&range), class, "{text}");
    }
}

proptest! {
    #[test]
    fn an_embedded_address_is_never_better_than_itself(bits in any::<u32>()) {
        let inner = Ipv4Addr::from(bits);
        let plain = classify(IpAddr::V4(inner)).class;
        let [high, low] = [(bits >> 16) as u16, (bits & 0xffff) as u16];
        let carriers = [
            [0, 0, 0, 0, 0, 0xffff, high, low],
            [0x64, 0xff9b, 0, 0, 0, 0, high, low],
            [0x2002, high, low, 0, 0, 0, 0, 1],
            [0x2001, 0, 0, 0, 0, 0, !high, !low],
            [0, 0, 0, 0, 0xffff, 0, high, low],
            [0x2606, 0x4700, 0, 0, 0, 0x5efe, high, low],
        ];
        for segments in carriers {
            let class = classify(IpAddr::V6(Ipv6Addr::from(segments))).class;
            prop_assert!(class == plain || class == AddressClass::Transition, "{segments:?}");
            prop_assert!(plain == AddressClass::Public || class != AddressClass::Public);
        }
    }

    #[test]
    fn what_std_calls_special_is_not_public(bits in any::<u32>()) {
        let address = Ipv4Addr::from(bits);
        let special = address.is_private() || address.is_loopback() || address.is_link_local()
            || address.is_multicast() || address.is_broadcast() || address.is_documentation() || address.is_unspecified();
        prop_assert!(!special || classify(IpAddr::V4(address)).class != AddressClass::Public);
    }
}
