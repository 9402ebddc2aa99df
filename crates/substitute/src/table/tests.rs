//! Which tables can be, and who may be used where (SUB-18 to SUB-23).

use super::*;
use crate::fixture::{HOST, destination, placeholder, rule, table};

fn refused(rules: Vec<SecretRule>) -> String {
    SecretTable::new(rules).unwrap_err().to_string()
}

fn with_injection(number: u8, injection: Injection) -> SecretRule {
    SecretRule {
        injection: Some(injection),
        ..rule(number, "long enough")
    }
}

fn header(name: &str, template: &str) -> Injection {
    Injection::Header {
        name: name.to_owned(),
        template: template.to_owned(),
    }
}

/// SUB-21: what would be ambiguous is refused.
#[test]
fn sub_21_what_would_be_ambiguous_is_refused() {
    let inside = format!("x{}y", placeholder(9));
    assert!(refused(vec![rule(1, &inside)]).contains("contains a placeholder"));
    let begun = "DENO_SECRET_PLACEHOLDER_".to_owned();
    assert!(refused(vec![rule(1, &begun)]).contains("contains a placeholder"));
    let prefix = table([rule(1, "value-one"), rule(2, "value-one-and-more")]);
    let warning = TableWarning::Prefix {
        shorter: rule(1, "x").name,
        longer: rule(2, "x").name,
    };
    assert_eq!(prefix.warnings(), [warning]);
}

#[test]
fn names_placeholders_and_hosts_are_needed_once() {
    assert!(refused(vec![rule(1, "a"), rule(1, "b")]).contains("have the name KEY1"));
    let same = SecretRule {
        placeholder: placeholder(1),
        ..rule(2, "b")
    };
    assert!(refused(vec![rule(1, "a"), same]).contains("same placeholder"));
    let nowhere = SecretRule {
        hosts: Vec::new(),
        ..rule(1, "a")
    };
    assert!(refused(vec![nowhere]).contains("has no host"));
    let all = |count: usize| {
        (0..count)
            .map(|index| SecretRule {
                name: SecretName::parse(&format!("K{index}")).unwrap(),
                placeholder: Placeholder::generate().unwrap(),
                ..rule(0, "short")
            })
            .collect()
    };
    assert!(SecretTable::new(all(SECRETS_MAX)).is_ok());
    assert!(refused(all(SECRETS_MAX + 1)).contains("at most 256"));
}

#[test]
fn injected_headers_are_checked() {
    for (injection, expected) in [
        (header("", "{}"), "header cannot be set"),
        (header("a b", "{}"), "header cannot be set"),
        (header("Host", "{}"), "header cannot be set"),
        (header("Content-Length", "{}"), "header cannot be set"),
        (header("x-key", "none"), "exactly one {}"),
        (header("x-key", "{}{}"), "exactly one {}"),
        (header("x-key", "{}\r\n"), "exactly one {}"),
        (
            Injection::Basic {
                user: "a:b".to_owned(),
            },
            "user name has a colon",
        ),
    ] {
        let found = refused(vec![with_injection(1, injection)]);
        assert!(found.contains(expected), "{found}");
    }
    let twice = vec![
        with_injection(1, header("Authorization", "Bearer {}")),
        with_injection(
            2,
            Injection::Basic {
                user: String::new(),
            },
        ),
    ];
    assert!(refused(twice).contains("same header of the same host"));
}

#[test]
fn needles_are_bounded_and_short_values_are_named() {
    let long = "x".repeat(64 * 1024);
    let rules: Vec<SecretRule> = (0..4).map(|number| rule(number, &long)).collect();
    assert!(refused(rules).contains("use fewer or shorter secrets"));
    assert!(SecretTable::new(vec![rule(1, &long)]).is_ok());
    let warning = |len| TableWarning::NotScrubbed {
        name: rule(1, "x").name,
        len,
    };
    assert_eq!(table([rule(1, "1234567")]).warnings(), [warning(7)]);
    assert!(table([rule(1, "12345678")]).warnings().is_empty());
}

/// SUB-03, SUB-19, SUB-20: the reasons, each by itself.
#[test]
fn eligibility_needs_every_condition() {
    let plaintext = SecretRule {
        plaintext: Plaintext::Allowed,
        ..rule(2, "b")
    };
    let table = table([rule(1, "a"), plaintext]);
    let good = destination(HOST);
    let (ok, no) = (Ok(()), Err::<(), _>);
    for (destination, expected) in [
        (good, [ok, ok]),
        (
            Destination {
                host: "evil.test",
                ..good
            },
            [no(IneligibleReason::Host); 2],
        ),
        (
            Destination { port: 8443, ..good },
            [no(IneligibleReason::Host); 2],
        ),
        (
            Destination {
                scheme: Scheme::Http,
                port: 80,
                ..good
            },
            [no(IneligibleReason::Plaintext), ok],
        ),
        (
            Destination {
                flow: Flow::Passthrough,
                ..good
            },
            [no(IneligibleReason::Passthrough); 2],
        ),
        (
            Destination {
                host: "10.0.0.1",
                ..good
            },
            [no(IneligibleReason::Address); 2],
        ),
        (
            Destination {
                host: "[::1]",
                ..good
            },
            [no(IneligibleReason::Address); 2],
        ),
    ] {
        let eligibility = table.eligibility(&destination);
        assert_eq!(eligibility.0, expected, "{destination:?}");
        assert_eq!(eligibility.is_empty(), expected.iter().all(Result::is_err));
    }
}

/// SUB-23: revoked and expired are taken out.
#[test]
fn sub_23_revoked_and_expired_are_taken_out() {
    let table = table([rule(1, "a"), rule(2, "b")]);
    let mut eligibility = table.eligibility(&destination(HOST));
    let name = |number| rule(number, "x").name;
    assert!(eligibility.refuse(&table, &name(1), IneligibleReason::Revoked));
    assert!(eligibility.refuse(&table, &name(1), IneligibleReason::Expired));
    assert!(!eligibility.refuse(&table, &name(3), IneligibleReason::Expired));
    assert_eq!(eligibility.0, [Err(IneligibleReason::Revoked), Ok(())]);
}

#[test]
fn nothing_prints_a_value() {
    let table = table([rule(1, "canary-value")]);
    let shown = format!("{table:?} {:#?}", table.eligibility(&destination(HOST)));
    assert!(!shown.contains("canary"));
}
