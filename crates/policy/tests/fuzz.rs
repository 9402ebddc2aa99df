//! What guests and authors of policies write, for a moment: `cargo xtask fuzz` runs it for as
//! long as wanted.
#![cfg(test)]

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use tombolo_fuzz::{Harness, Result, Unstructured, text};
use tombolo_policy::{
    AllowEntry, Body, CanonicalPath, HostName, OperatorRules, PathGlob, Policy, PolicyDocument,
    RateLimits, RequestHead, Staged, Target, classify,
};

const HARNESSES: [(&str, Harness); 6] = [
    ("host", host),
    ("entry", entry),
    ("path", path),
    ("glob", glob),
    ("document", document),
    ("request", request),
];

#[test]
fn every_harness_holds() {
    tombolo_fuzz::hold(&HARNESSES);
}

fn line(source: &mut Unstructured<'_>, pieces: &[&str]) -> Result<String> {
    Ok(String::from_utf8_lossy(&text(source, pieces)?).into_owned())
}

/// A name has one form, which means itself; none is an address.
fn host(source: &mut Unstructured<'_>) -> Result<()> {
    let mut text = line(
        source,
        &[
            "a",
            "B",
            "good",
            ".",
            "..",
            "-",
            "_",
            "xn--",
            "xn--bcher-kva",
            "ü",
            "ß",
            "ſ",
            "1",
            "0x7f",
            "%",
            "\0",
            " ",
            "*",
            "[",
            ":",
            "@",
            "test",
            "\u{3002}",
            "\u{ad}",
        ],
    )?;
    // Most that is longer is refused for that alone.
    text = text.chars().take(source.int_in_range(1..=80)?).collect();
    if let Ok(name) = HostName::parse(&text) {
        assert_eq!(HostName::parse(name.as_str()).as_ref(), Ok(&name));
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        assert!(name.as_str().bytes().all(is_plain), "{text:?}");
        assert!(name.as_str().parse::<IpAddr>().is_err(), "{text:?}");
        assert!(!name.as_str().is_empty() && name.as_str().len() <= 253);
    }
    Ok(())
}

/// What an entry prints is the entry; an address is classified whatever is in it.
fn entry(source: &mut Unstructured<'_>) -> Result<()> {
    let mut text = line(
        source,
        &[
            "*.",
            "good.test",
            ":443",
            ":",
            "10.0.0.0/8",
            "[",
            "]",
            "::ffff:",
            "fd12::",
            "/16",
            "1.2.3.4",
            "64:ff9b::",
            "2002:",
            "a",
            ".",
            "-",
            "0",
        ],
    )?;
    text = text.chars().take(source.int_in_range(1..=60)?).collect();
    if let Ok(entry) = AllowEntry::parse(&text) {
        let again = AllowEntry::parse(&entry.to_string()).unwrap();
        assert_eq!(again.to_string(), entry.to_string(), "{text:?}");
    }
    let address = if source.arbitrary()? {
        IpAddr::from(source.arbitrary::<[u8; 4]>()?)
    } else {
        IpAddr::from(source.arbitrary::<[u8; 16]>()?)
    };
    let classified = classify(address);
    assert_eq!(
        classify(classified.dial).class,
        classified.class,
        "{address}"
    );
    Ok(())
}

const PATH_PIECES: [&str; 20] = [
    "/", "//", ".", "..", "/../", "/./", "%2e", "%2E%2e", "%2f", "%5c", "\\", ";", "%00", "%25",
    "%252e", "a", "pub", "admin", "é", "%c3%a9",
];

/// A path of some pieces, often one that is not refused.
fn some_path(source: &mut Unstructured<'_>, pieces: &[&str]) -> Result<String> {
    let mut path = "/".to_owned();
    for _ in 0..source.int_in_range(0..=8)? {
        let harmless = ["/", "a", "pub", "..", ".", "%2e%2e", "%61"];
        let pieces = if source.ratio(3, 4)? {
            &harmless[..]
        } else {
            pieces
        };
        path.push_str(source.choose(pieces)?);
    }
    Ok(path)
}

/// The canonical form of a path is its own, and has nothing in it that leads elsewhere.
fn path(source: &mut Unstructured<'_>) -> Result<()> {
    let text = some_path(source, &PATH_PIECES)?;
    if let Ok(path) = CanonicalPath::parse(&text) {
        let again = CanonicalPath::parse(path.as_str()).unwrap();
        assert_eq!(again.as_str(), path.as_str(), "{text:?}");
        let is_odd = |part: &str| matches!(part, "." | "..");
        assert!(!path.as_str().split('/').any(is_odd), "{text:?}");
        assert!(path.as_str().starts_with('/') && !path.as_str().contains('\\'));
    }
    Ok(())
}

/// Comparing ends, whatever the pattern.
fn glob(source: &mut Unstructured<'_>) -> Result<()> {
    let pattern = some_path(source, &["*", "**", "/**/", "/*", "a*", "/**", "é"])?;
    let text = some_path(source, &PATH_PIECES)?;
    let (Ok(glob), Ok(path)) = (PathGlob::parse(&pattern), CanonicalPath::parse(&text)) else {
        return Ok(());
    };
    let matched = glob.matches(&path);
    if let Ok(everything) = PathGlob::parse("/**") {
        assert!(everything.matches(&path), "{text:?}");
    }
    let own = CanonicalPath::parse(&pattern);
    if let Ok(own) = own.as_ref().map(CanonicalPath::as_str)
        && !pattern.contains('*')
        && matched
    {
        assert_eq!(own, path.as_str(), "{pattern:?} {text:?}");
    }
    Ok(())
}

/// A document is a policy or is refused; either is said within bounds.
fn document(source: &mut Unstructured<'_>) -> Result<()> {
    let line = line(
        source,
        &[
            "good.test",
            "*",
            "GET",
            "/**",
            "/a",
            ":",
            "[",
            "]",
            "1",
            "{}",
            "\\",
            "\"",
            "é",
            "\0",
            "request.path == '/'",
            "json.a.all(x, x == 1)",
            "labels",
            "((",
            "))",
            "!",
            "&&",
            " ",
        ],
    )?;
    let line: String = line.chars().take(600).collect();
    let document = serde_json::json!({
        "version": source.int_in_range(0..=2)?,
        "allow_net": [line],
        "secrets": {(line.clone()): {"hosts": [line]}},
        "net": {"rules": [{
            "id": line, "host": line, "method": line, "path": line, "when": line,
            "json": {(line.clone()): {"equals": line}},
        }, {"id": "r", "host": "good.test", "when": line}]},
    });
    let document: PolicyDocument = serde_json::from_value(document).unwrap();
    let operator = OperatorRules::closed();
    if let Err(refused) = Policy::compile(&document, &operator, &BTreeMap::new()) {
        assert!(refused.to_string().len() < 64 << 10);
    }
    Ok(())
}

/// A rule that denies is not evaded by a form of the body that nobody can read; whatever is
/// let through does not say what is denied to a plain reader either.
fn request(source: &mut Unstructured<'_>) -> Result<()> {
    let document = serde_json::json!({
        "version": 1,
        "net": {"rules": [
            {"id": "no", "host": "good.test", "action": "deny", "json": {"/model": {"equals": "evil"}}},
            {"id": "yes", "host": "good.test", "path": "/pub/**"},
        ]},
    });
    let document: PolicyDocument = serde_json::from_value(document).unwrap();
    let policy = Policy::compile(&document, &OperatorRules::closed(), &BTreeMap::new()).unwrap();
    let mut body = Vec::new();
    for _ in 0..source.int_in_range(0..=6)? {
        let piece = *source.choose(&[
            "{\"model\":\"evil\"}",
            "{\"model\":\"good\"}",
            "{",
            "}",
            "\"model\":",
            "\"Model\":",
            "\"\\u006dodel\":",
            "\"evil\"",
            "\"good\"",
            ",",
            "\u{feff}",
            " ",
            "\"mo\u{17f}del\":",
        ])?;
        body.extend_from_slice(piece.as_bytes());
    }
    let path = some_path(source, &PATH_PIECES)?;
    let name = HostName::parse("good.test").unwrap();
    let headers: [(&str, &[u8]); 1] = [("content-type", b"application/json")];
    let head = RequestHead {
        target: Target::Name(&name),
        port: 443,
        method: "POST",
        path: &path,
        query: None,
        headers: &headers,
        has_body: true,
        content_length: Some(body.len() as u64),
    };
    let mut limits = RateLimits::default();
    let requests = policy.requests();
    let decision = match requests.decide_head(&head, &mut limits, Duration::ZERO) {
        Staged::Decided(decision) => decision,
        Staged::NeedBody { .. } => {
            requests.decide_body(&head, Body::Complete(&body), &mut limits, Duration::ZERO)
        }
    };
    if decision.proceeds() {
        let sent = decision.path.unwrap();
        assert!(sent == "/pub" || sent.starts_with("/pub/"), "{sent}");
        let read = serde_json::from_slice::<serde_json::Value>(&body);
        let is_evil = read.is_ok_and(|value| value["model"] == "evil");
        assert!(!is_evil, "{}", String::from_utf8_lossy(&body));
    }
    Ok(())
}
