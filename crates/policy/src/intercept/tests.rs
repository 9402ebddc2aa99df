//! Which TLS is terminated.

use super::*;
use crate::host::HostName;

fn entries(texts: &[&str]) -> Vec<AllowEntry> {
    let parse = |text: &&str| AllowEntry::parse(text).expect("an entry");
    texts.iter().map(parse).collect()
}

fn check(mode: InterceptMode, restricted: bool, host: &str, port: u16, expected: Interception) {
    let policy = InterceptPolicy {
        mode,
        restricted,
        passthrough: entries(&["pinned.example", "*.pinned.example:443"]),
        secrets: entries(&["api.example:443"]),
        rules: entries(&["*.rules.example", "192.0.2.0/24:8443"]),
        certified: entries(&["mutual.example:443", "certified.pinned.example"]),
    };
    let name = HostName::parse(host);
    let target = match (&name, host.parse()) {
        (_, Ok(address)) => Target::Address(address),
        (Ok(name), Err(_)) => Target::Name(name),
        (Err(error), Err(_)) => panic!("{host}: {error}"),
    };
    assert_eq!(
        policy.decide(target, port),
        expected,
        "{mode:?} {restricted} {host}:{port}"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn auto_terminates_where_there_is_something_to_enforce() {
    use InterceptReason as Why;
    use Interception::{Splice, Terminate};
    for (mode, restricted, host, port, expected) in [
        (
            InterceptMode::Auto,
            false,
            "mutual.example",
            443,
            Terminate(Why::ClientCertificate),
        ),
        (
            InterceptMode::Auto,
            false,
            "mutual.example",
            8443,
            Splice(Why::NothingToEnforce),
        ),
        (
            InterceptMode::Auto,
            false,
            "certified.pinned.example",
            443,
            Splice(Why::Passthrough),
        ),
        (
            InterceptMode::Auto,
            false,
            "other.example",
            443,
            Splice(Why::NothingToEnforce),
        ),
        (
            InterceptMode::Auto,
            false,
            "api.example",
            443,
            Terminate(Why::Secrets),
        ),
        (
            InterceptMode::Auto,
            false,
            "api.example",
            8443,
            Splice(Why::NothingToEnforce),
        ),
        (
            InterceptMode::Auto,
            false,
            "a.rules.example",
            8443,
            Terminate(Why::Rules),
        ),
        (
            InterceptMode::Auto,
            false,
            "rules.example",
            443,
            Splice(Why::NothingToEnforce),
        ),
        (
            InterceptMode::Auto,
            true,
            "other.example",
            443,
            Terminate(Why::Restricted),
        ),
        (
            InterceptMode::Auto,
            true,
            "pinned.example",
            443,
            Splice(Why::Passthrough),
        ),
        (
            InterceptMode::Auto,
            true,
            "a.pinned.example",
            443,
            Splice(Why::Passthrough),
        ),
        (
            InterceptMode::Auto,
            true,
            "a.pinned.example",
            444,
            Terminate(Why::Restricted),
        ),
        (
            InterceptMode::All,
            false,
            "other.example",
            443,
            Terminate(Why::All),
        ),
        (
            InterceptMode::All,
            false,
            "pinned.example",
            443,
            Splice(Why::Passthrough),
        ),
        (
            InterceptMode::Auto,
            true,
            "192.0.2.1",
            443,
            Splice(Why::NothingToEnforce),
        ),
        (
            InterceptMode::Auto,
            true,
            "192.0.2.1",
            8443,
            Terminate(Why::Rules),
        ),
        (
            InterceptMode::All,
            true,
            "192.0.2.1",
            443,
            Terminate(Why::All),
        ),
    ] {
        check(mode, restricted, host, port, expected);
    }
}
