//! Entries of allow lists: every form, every refusal.

use proptest::prelude::*;

use super::*;

fn check(text: &str, canonical: &str) {
    let entry = AllowEntry::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(entry.to_string(), canonical);
}

#[test]
fn every_form_of_the_sdks_is_read() {
    for (text, canonical) in [
        ("example.com", "example.com"),
        ("example.com:443", "example.com:443"),
        ("*.example.com", "*.example.com"),
        ("*.example.com:8443", "*.example.com:8443"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:5432", "192.0.2.7:5432"),
        ("[2001:db8::7]", "[2001:db8::7]"),
        ("[2001:db8::7]:5432", "[2001:db8::7]:5432"),
        ("10.1.0.0/16", "10.1.0.0/16"),
        ("10.1.0.0/16:5432", "10.1.0.0/16:5432"),
        ("[fd12::/16]", "[fd12::/16]"),
        ("[fd12::/16]:1", "[fd12::/16]:1"),
        ("EXAMPLE.com.:443", "example.com:443"),
        ("*.Bücher.example", "*.xn--bcher-kva.example"),
        ("[2001:DB8:0:0::7]", "[2001:db8::7]"),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
        ("localhost:3000", "localhost:3000"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("10.0.0.1/32", "10.0.0.1"),
    ] {
        check(text, canonical);
        check(canonical, canonical);
    }
}

#[test]
fn what_is_no_entry_is_told_what_to_write() {
    for (text, hint) in [
        ("", "must not be empty"),
        (
            "https://api.example.com/",
            "write the host and, if it matters, the port",
        ),
        ("example.com/v1", "rules on paths belong in `net.rules`"),
        ("*", "leave `allowNet` out"),
        ("*:443", "leave `allowNet` out"),
        ("api.*.com", "whole first label"),
        ("*example.com", "whole first label"),
        ("*.*.example.com", "whole first label"),
        ("example.com:0", "`0` is not a port"),
        ("example.com:65536", "from 1 to 65535"),
        ("example.com:+1", "`+1` is not a port"),
        ("example.com:", "`` is not a port"),
        ("example.com:http", "`http` is not a port"),
        ("2001:db8::7", "write `[2001:db8::7]`"),
        ("fd12::/16", "write `[fd12::/16]`"),
        ("[2001:db8::7", "has no `]`"),
        ("[2001:db8::7]443", "text between"),
        ("[2001:db8::7]/64", "text between"),
        ("[example.com]", "not an IPv6 address"),
        ("[fe80::1%eth0]", "not an IPv6 address"),
        ("[10.0.0.1]", "not an IPv6 address"),
        ("10.1.2.3/8", "write `10.0.0.0/8`"),
        ("[fd12::1/16]", "write `fd12::/16`"),
        ("10.0.0.0/33", "not an IPv4 range"),
        ("10.0.0/8", "not an IPv4 range"),
        ("[::ffff:10.0.0.0/104]", "write the IPv4 range"),
        ("0x7f.1", "four decimal numbers"),
        ("127.1", "four decimal numbers"),
        ("2130706433", "four decimal numbers"),
        ("010.0.0.1", "four decimal numbers"),
        ("a b.com", "not valid"),
        ("exa\0mple.com", "not valid"),
        (" example.com", "not valid"),
    ] {
        let error = AllowEntry::parse(text).expect_err(text).to_string();
        assert!(error.contains(hint), "{text:?}: {error}");
    }
    let long = "a".repeat(ENTRY_LEN_MAX + 1);
    assert_eq!(AllowEntry::parse(&long), Err(AllowEntryError::TooLong));
}

#[test]
fn patterns_overlap_and_cover() {
    for (one, two, overlaps, covers) in [
        ("a.com", "a.com", true, true),
        ("a.com", "b.com", false, false),
        ("*.a.com", "a.com", false, false),
        ("*.a.com", "b.a.com", true, true),
        ("b.a.com", "*.a.com", true, false),
        ("*.a.com", "*.b.a.com", true, true),
        ("*.b.a.com", "*.a.com", true, false),
        ("10.0.0.0/8", "10.1.0.0/16", true, true),
        ("10.1.0.0/16", "10.0.0.0/8", true, false),
        ("10.0.0.0/8", "11.0.0.1", false, false),
        ("10.0.0.0/8", "a.com", false, false),
    ] {
        let parse = |text| AllowEntry::parse(text).expect("an entry").host().clone();
        let (one, two) = (parse(one), parse(two));
        assert_eq!(one.overlaps(&two), overlaps, "{one} {two}");
        assert_eq!(two.overlaps(&one), overlaps, "{two} {one}");
        assert_eq!(one.covers(&two), covers, "{one} {two}");
    }
}

fn entries() -> impl Strategy<Value = AllowEntry> {
    let name = "[a-z0-9_]([a-z0-9_-]{0,8}[a-z0-9_])?(\\.[a-z]{1,8}){1,3}";
    let names = name.prop_filter_map("a name", |text| HostName::parse(&text).ok());
    let host = prop_oneof![
        names.clone().prop_map(HostPattern::Exact),
        names.prop_map(HostPattern::Below),
        (any::<u32>(), 0..=32_u8).prop_map(|(bits, len)| {
            let range = Ipv4Net::new_assert(Ipv4Addr::from(bits), len).trunc();
            HostPattern::Range(IpNet::V4(range))
        }),
        (any::<u128>(), 0..=128_u8).prop_filter_map("not mapped", |(bits, len)| {
            let range = Ipv6Net::new_assert(Ipv6Addr::from(bits), len).trunc();
            unmapped(range).ok().map(HostPattern::Range)
        }),
    ];
    (host, prop::option::of(1..=u16::MAX)).prop_map(|(host, port)| AllowEntry::new(host, port))
}

proptest! {
    #[test]
    fn what_is_printed_is_read_again(entry in entries()) {
        prop_assert_eq!(AllowEntry::parse(&entry.to_string()), Ok(entry));
    }

    #[test]
    fn covering_is_overlapping(one in entries(), two in entries()) {
        prop_assert!(!one.host().covers(two.host()) || one.host().overlaps(two.host()));
        prop_assert_eq!(one.host().overlaps(two.host()), two.host().overlaps(one.host()));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}|[a-z0-9.:/\\[\\]*-]{0,40}") {
        if let Ok(entry) = AllowEntry::parse(&text) {
            prop_assert_eq!(AllowEntry::parse(&entry.to_string()), Ok(entry));
        }
    }
}
