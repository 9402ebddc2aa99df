//! Host names, by the ids of the attacks they decide.

use proptest::prelude::*;

use super::*;

fn check(text: &str, expected: Result<&str, HostNameError>) {
    let parsed = HostName::parse(text);
    let parsed = parsed
        .as_ref()
        .map(HostName::as_str)
        .map_err(|error| *error);
    assert_eq!(parsed, expected, "{text:?}");
}

#[test]
fn names_have_one_form() {
    for (text, canonical) in [
        ("example.com", "example.com"),
        ("EXAMPLE.Com", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("ｅｘａｍｐｌｅ。com", "example.com"),
        (
            "r3---sn-4g5e.googlevideo.com",
            "r3---sn-4g5e.googlevideo.com",
        ),
        ("4.example.com", "4.example.com"),
        ("1e100.net", "1e100.net"),
    ] {
        check(text, Ok(canonical));
    }
}

/// NET-23, TLS-06: names that two programs read differently are refused.
#[test]
fn net_23_and_tls_06_names_that_two_programs_read_differently_are_refused() {
    let long = "a".repeat(64);
    let long_label = format!("{long}.com");
    let long_name = ["abcdefghi"; 26].join(".");
    for (text, error) in [
        ("", HostNameError::Empty),
        (".", HostNameError::EmptyLabel),
        (".example.com", HostNameError::EmptyLabel),
        ("a..example.com", HostNameError::EmptyLabel),
        ("example.com..", HostNameError::EmptyLabel),
        ("attacker\0.google.com", HostNameError::Character),
        ("attacker\r\n.google.com", HostNameError::Character),
        ("attacker%00.google.com", HostNameError::Character),
        ("evil .com", HostNameError::Character),
        ("evil.com/", HostNameError::Character),
        ("evil.com:80", HostNameError::Character),
        ("user@evil.com", HostNameError::Character),
        ("evil.com#.good.com", HostNameError::Character),
        ("evil\\.com", HostNameError::Character),
        ("*.example.com", HostNameError::Wildcard),
        ("*", HostNameError::Wildcard),
        ("-a.example", HostNameError::HyphenAtEdge),
        ("a-.example", HostNameError::HyphenAtEdge),
        (long_label.as_str(), HostNameError::LabelTooLong),
        (long_name.as_str(), HostNameError::TooLong),
        ("xn--a.example", HostNameError::Idna),
        ("a\u{202e}b.example", HostNameError::Idna),
        ("good.com\u{ff0f}evil.com", HostNameError::Character),
    ] {
        check(text, Err(error));
    }
    let bounded = "ü".repeat(INPUT_LEN_MAX);
    check(&bounded, Err(HostNameError::TooLong));
}

#[test]
fn the_longest_name_is_a_name() {
    let label = "a".repeat(LABEL_LEN_MAX);
    let name = [label.as_str(), &label, &label, &"b".repeat(61)].join(".");
    assert_eq!(name.len(), HOST_NAME_LEN_MAX);
    check(&name, Ok(&name));
    check(&format!("{name}."), Ok(&name));
    check(&format!("{name}b"), Err(HostNameError::TooLong));
}

/// NET-08: addresses in any form are not names.
#[test]
fn net_08_addresses_in_any_form_are_not_names() {
    for text in [
        "127.0.0.1",
        "169.254.169.254",
        "169.254.169.254.",
        "2852039166",
        "0xa9fea9fe",
        "0xA9.0xFE.0xA9.0xFE",
        "0251.0376.0251.0376",
        "169.254.43518",
        "1",
        "0x",
        "a.0x7f",
        "example.123",
        "１６９.254.169.254",
    ] {
        check(text, Err(HostNameError::LooksLikeAddress));
    }
    check("::1", Err(HostNameError::Character));
    check("[::1]", Err(HostNameError::Character));
}

#[test]
fn a_name_lies_below_its_ancestors_only() {
    let below = |name: &str, ancestor: &str| {
        let parse = |text| HostName::parse(text).expect("a name");
        parse(name).is_below(&parse(ancestor))
    };
    assert!(below("a.example.com", "example.com"));
    assert!(below("a.b.example.com", "example.com"));
    assert!(!below("example.com", "example.com"));
    assert!(!below("evilexample.com", "example.com"));
    assert!(!below("example.com", "a.example.com"));
    assert!(!below("example.com.evil.net", "example.com"));
}

proptest! {
    #[test]
    fn any_text_is_a_canonical_name_or_none(text in "\\PC{0,80}|[a-zA-Z0-9._-]{0,300}|[\\x00-\\x7f]{0,40}") {
        if let Ok(name) = HostName::parse(&text) {
            prop_assert_eq!(HostName::parse(name.as_str()), Ok(name.clone()));
            prop_assert!(name.as_str().len() <= HOST_NAME_LEN_MAX);
            prop_assert!(name.labels().all(|label| (1..=LABEL_LEN_MAX).contains(&label.len())));
            prop_assert!(name.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte)));
            prop_assert!(name.as_str().parse::<std::net::IpAddr>().is_err());
            let absolute = format!("{}.", name.as_str().to_ascii_uppercase());
            prop_assert_eq!(HostName::parse(&absolute), Ok(name));
        }
    }

    #[test]
    fn numbers_are_never_names(parts in prop::collection::vec(any::<u32>(), 1..5), radix in 0..3_usize) {
        let write = |part: &u32| match radix { 0 => format!("{part}"), 1 => format!("0x{part:x}"), _ => format!("0{part:o}") };
        let text = parts.iter().map(write).collect::<Vec<_>>().join(".");
        prop_assert_eq!(HostName::parse(&text), Err(HostNameError::LooksLikeAddress));
    }
}
