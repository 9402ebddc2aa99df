//! Which hosts a value may go to, and which texts are hosts.

use super::*;

#[test]
fn hosts_are_names() {
    for (text, shown) in [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM.", "api.example.com"),
        ("api.example.com:8443", "api.example.com:8443"),
        ("*.example.com", "*.example.com"),
        ("*.example.com:99", "*.example.com:99"),
        ("localhost", "localhost"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_x.example.com", "_x.example.com"),
    ] {
        assert_eq!(SecretHost::parse(text).unwrap().to_string(), shown);
    }
    let long = format!("{}.com", "a".repeat(64));
    for (text, expected) in [
        ("", ParseSecretHostError::Name),
        ("a..b", ParseSecretHostError::Name),
        ("-a.com", ParseSecretHostError::Name),
        ("bücher.example", ParseSecretHostError::Name),
        ("a b.com", ParseSecretHostError::Name),
        ("a.com/path", ParseSecretHostError::Name),
        (&long, ParseSecretHostError::Name),
        ("*", ParseSecretHostError::Wildcard),
        ("*.com", ParseSecretHostError::Wildcard),
        ("a.*.com", ParseSecretHostError::Wildcard),
        ("*a.example.com", ParseSecretHostError::Wildcard),
        ("1.2.3.4", ParseSecretHostError::Address),
        ("1.2.3.4:443", ParseSecretHostError::Address),
        ("0x7f.1", ParseSecretHostError::Address),
        ("2130706433", ParseSecretHostError::Address),
        ("1.0x7f", ParseSecretHostError::Address),
        ("::1", ParseSecretHostError::Address),
        ("[::1]:443", ParseSecretHostError::Address),
        ("a.com:", ParseSecretHostError::Port),
        ("a.com:0", ParseSecretHostError::Port),
        ("a.com:+1", ParseSecretHostError::Port),
        ("a.com:65536", ParseSecretHostError::Port),
    ] {
        assert_eq!(SecretHost::parse(text), Err(expected), "{text}");
    }
}

#[test]
fn a_host_means_itself_and_its_scheme_s_port() {
    let https = (443, Scheme::Https);
    for (pattern, host, (port, scheme), expected) in [
        ("a.example.com", "a.example.com", https, true),
        (
            "a.example.com",
            "a.example.com",
            (8443, Scheme::Https),
            false,
        ),
        ("a.example.com", "a.example.com", (80, Scheme::Http), true),
        ("a.example.com", "a.example.com", (443, Scheme::Http), false),
        (
            "a.example.com:8443",
            "a.example.com",
            (8443, Scheme::Https),
            true,
        ),
        ("a.example.com:8443", "a.example.com", https, false),
        ("a.example.com", "b.a.example.com", https, false),
        ("a.example.com", "xa.example.com", https, false),
        ("*.example.com", "a.example.com", https, true),
        ("*.example.com", "b.a.example.com", https, true),
        ("*.example.com", "example.com", https, false),
        ("*.example.com", ".example.com", https, false),
        ("*.example.com", "aexample.com", https, false),
        ("*.example.com", "example.com.evil.test", https, false),
    ] {
        let destination = Destination {
            host,
            port,
            scheme,
            flow: Flow::Terminated,
        };
        let found = SecretHost::parse(pattern).unwrap().matches(&destination);
        assert_eq!(found, expected, "{pattern} {host}:{port} {scheme:?}");
    }
}
