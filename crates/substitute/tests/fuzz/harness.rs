//! Properties that must hold for every input, fed with generated ones.
//!
//! What holds: nothing panics; how a stream is cut changes nothing; what is
//! held is bounded; no value appears where it must not; no needle is left in
//! what was scrubbed; a JSON document stays one.

use std::sync::Arc;

use tombolo_fuzz::{Harness, Result, Unstructured, cut};
use tombolo_secret::{Placeholder, SecretName, SecretValue};
use tombolo_substitute::{
    BodyKind, Composites, Destination, Flow, Plaintext, RequestSubstitution, Requirement, Scheme,
    ScrubMode, SecretHost, SecretRule, SecretTable, Slot, Slots,
};

pub(crate) const HARNESSES: [(&str, Harness); 8] = [
    ("text", |u| body(u, &BodyKind::Text)),
    ("json", json),
    ("form", |u| body(u, &BodyKind::Form)),
    ("multipart", |u| {
        let boundary = "bnd".to_owned();
        body(u, &BodyKind::Multipart { boundary })
    }),
    ("head", head),
    ("scrub", scrub),
    ("echo", echo),
    ("parse", parse),
];

/// What never leaves for another host, and what is never seen in a guest.
const VALUE: &str = "sk-CANARY/+\"\\&<'=0123456789";
/// Its characters that no escape changes.
const MARK: &[u8] = b"CANARY";
/// The most that any stream holds: a multipart header block and a delimiter.
const HELD_MAX: usize = 20 * 1024;

fn placeholder(number: u8) -> Placeholder {
    Placeholder::from_bytes([number; 32])
}

fn rule(number: u8, value: &str, host: &str) -> SecretRule {
    SecretRule {
        name: SecretName::parse(&format!("KEY{number}")).unwrap(),
        placeholder: placeholder(number),
        value: SecretValue::new(value.to_owned()).unwrap(),
        hosts: vec![host.parse().unwrap()],
        slots: Slots::from_iter(Slot::ALL),
        plaintext: Plaintext::Refused,
        requirement: Requirement::Optional,
        injection: None,
    }
}

fn table() -> Arc<SecretTable> {
    let rules = vec![
        rule(1, VALUE, "good.example"),
        rule(2, "other-CANARY-value", "other.example"),
    ];
    Arc::new(SecretTable::new(rules).unwrap())
}

fn request(table: &Arc<SecretTable>, host: &str) -> RequestSubstitution {
    let destination = Destination {
        host,
        port: 443,
        scheme: Scheme::Https,
        flow: Flow::Terminated,
    };
    RequestSubstitution::new(table, table.eligibility(&destination))
}

/// A text of the pieces that the grammars are made of.
fn text(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    while !u.is_empty() && text.len() < 8 * 1024 {
        let number = u.int_in_range(1..=3)?;
        let whole = placeholder(number).to_string();
        match u.int_in_range(0..=9)? {
            0 | 1 => text.extend_from_slice(whole.as_bytes()),
            2 => text.extend_from_slice(&whole.as_bytes()[..u.int_in_range(0..=88)?]),
            3 => text.extend_from_slice(&whole.as_bytes()[u.int_in_range(0..=88)?..]),
            4 => text.extend(whole.bytes().flat_map(|b| format!("%{b:02x}").into_bytes())),
            5 => text.extend(
                whole
                    .bytes()
                    .flat_map(|b| format!("\\u{b:04x}").into_bytes()),
            ),
            6 => text.extend_from_slice(
                u.choose(&[
                    "\"",
                    "\\",
                    "\\u00",
                    "\\\"",
                    "{\"a\":\"",
                    "\",",
                    "%",
                    "%4",
                    "&",
                    "=",
                    "/",
                    "..",
                    "\r\n--bnd\r\n",
                    "--bnd",
                    "--bnd--",
                    "\r\n\r\n",
                    "\r\n",
                    "D",
                    "DENO_SECRET_",
                    "Content-Type: text/plain\r\n",
                    "Content-Disposition: form-data; filename=\"",
                ])?
                .as_bytes(),
            ),
            7 => text.push(u.arbitrary()?),
            8 => {
                let wanted = usize::from(u.arbitrary::<u8>()?);
                text.extend_from_slice(u.bytes(wanted.min(u.len()))?);
            }
            _ => text.extend_from_slice(b"plain text "),
        }
    }
    Ok(text)
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

fn substituted(table: &Arc<SecretTable>, host: &str, kind: &BodyKind, chunks: &[&[u8]]) -> Vec<u8> {
    let mut body = request(table, host).body(kind);
    let mut out = Vec::new();
    for chunk in chunks {
        body.push(chunk, &mut out);
        assert!(body.held() <= HELD_MAX);
    }
    body.finish(&mut out);
    out
}

fn body(u: &mut Unstructured<'_>, kind: &BodyKind) -> Result<()> {
    let cuts = u.bytes(u.len() / 8)?.to_vec();
    let text = text(u)?;
    let chunks = cut(&mut Unstructured::new(&cuts), &text)?;
    let table = table();
    let whole = substituted(&table, "good.example", kind, &[&text]);
    assert_eq!(whole, substituted(&table, "good.example", kind, &chunks));
    let elsewhere = substituted(&table, "evil.example", kind, &chunks);
    assert_eq!(elsewhere, text, "nothing changes where nothing is eligible");
    let own = placeholder(1).to_string();
    if matches!(kind, BodyKind::Text) {
        assert!(!contains(&whole, own.as_bytes()));
    }
    Ok(())
}

fn json(u: &mut Unstructured<'_>) -> Result<()> {
    let text = text(u)?;
    let table = table();
    let strings: Vec<String> = text
        .chunks(500)
        .map(|chunk| String::from_utf8_lossy(chunk).into_owned())
        .collect();
    let document = serde_json::to_vec(&strings).unwrap();
    let out = substituted(&table, "good.example", &BodyKind::Json, &[&document]);
    let found: Vec<String> = serde_json::from_slice(&out).unwrap();
    let own = placeholder(1).to_string();
    for (before, after) in strings.iter().zip(&found) {
        assert_eq!(&before.replace(&own, VALUE), after);
    }
    body(&mut Unstructured::new(&text), &BodyKind::Json)
}

fn head(u: &mut Unstructured<'_>) -> Result<()> {
    let name = *u.choose(&[
        "authorization",
        "x-key",
        "cookie",
        "x-bin",
        "user-agent",
        "host",
    ])?;
    let is_basic = u.arbitrary()?;
    let text = text(u)?;
    let table = table();
    let value = if is_basic {
        let token: String = text.iter().map(|b| char::from(b'0' + b % 64)).collect();
        format!("Basic {token}").into_bytes()
    } else {
        text.clone()
    };
    for host in ["good.example", "evil.example"] {
        let mut request = request(&table, host);
        let header = request.header(name, &value);
        let line = String::from_utf8_lossy(&text).into_owned();
        let query = request.query(&line);
        let path = request.path(&line);
        let message = request.websocket_text(&text);
        if let Ok(Some(path)) = &path {
            assert_eq!(path.matches('/').count(), line.matches('/').count());
        }
        if let Some(query) = &query {
            assert_eq!(query.matches('&').count(), line.matches('&').count());
        }
        if host == "evil.example" {
            let untouched = header == Ok(None) && query.is_none() && path == Ok(None);
            assert!(untouched && message == Ok(None));
        }
    }
    Ok(())
}

/// Any text: what comes out has no needle, and the rest is as it was.
fn scrub(u: &mut Unstructured<'_>) -> Result<()> {
    let table = table();
    let cuts = u.bytes(u.len() / 8)?.to_vec();
    let mut text = text(u)?;
    let at = usize::from(cuts.first().copied().unwrap_or(0)).min(text.len());
    let inserted = VALUE.bytes().take(text.len() % 40).collect::<Vec<u8>>();
    text.splice(at..at, inserted);
    let chunks = cut(&mut Unstructured::new(&cuts), &text)?;
    let none = Composites::default();
    for mode in [ScrubMode::Placeholder, ScrubMode::Mask] {
        let mut scrubber = table.scrubber(&none, mode).unwrap();
        let mut out = Vec::new();
        for chunk in &chunks {
            scrubber.push(chunk, &mut out);
            assert!(scrubber.held() <= 6 * VALUE.len());
        }
        scrubber.finish(&mut out);
        assert!(!contains(&out, VALUE.as_bytes()));
        if mode == ScrubMode::Mask {
            assert_eq!(out.len(), text.len());
        }
        let whole = table.scrub(&none, mode, &text).unwrap_or(text.clone());
        assert_eq!(whole, out);
    }
    Ok(())
}

/// A request out and its echo back: the guest never sees a value.
fn echo(u: &mut Unstructured<'_>) -> Result<()> {
    let table = table();
    let kind = u
        .choose(&[
            BodyKind::Text,
            BodyKind::Json,
            BodyKind::Form,
            BodyKind::Xml,
        ])?
        .clone();
    let cuts = u.bytes(u.len() / 8)?.to_vec();
    let text = text(u)?;
    if contains(&text, MARK) {
        return Ok(());
    }
    let sent = substituted(&table, "good.example", &kind, &[&text]);
    let chunks = cut(&mut Unstructured::new(&cuts), &sent)?;
    let mut scrubber = table
        .scrubber(&Composites::default(), ScrubMode::Placeholder)
        .unwrap();
    let mut seen = Vec::new();
    for chunk in chunks {
        scrubber.push(chunk, &mut seen);
    }
    scrubber.finish(&mut seen);
    assert!(!contains(&seen, MARK), "{}", String::from_utf8_lossy(&seen));
    Ok(())
}

/// The parsers of what arrives as text.
fn parse(u: &mut Unstructured<'_>) -> Result<()> {
    let text = text(u)?;
    let line = String::from_utf8_lossy(&text);
    let kind = BodyKind::of_content_type(&format!("multipart/x; {line}"));
    assert!(kind.is_none_or(|kind| kind.slot() == Slot::Multipart));
    if let Ok(host) = SecretHost::parse(&line) {
        assert_eq!(SecretHost::parse(&host.to_string()).as_ref(), Ok(&host));
    }
    if let Ok(found) = Placeholder::parse(&text) {
        assert_eq!(found.to_string().as_bytes(), text);
    }
    Ok(())
}
