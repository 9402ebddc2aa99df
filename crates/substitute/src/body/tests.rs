//! Streams against texts: whatever the pieces are, the body is the one that a
//! naive reader of the whole would make.
#![expect(
    clippy::format_collect,
    reason = "hexadecimal texts are short and made once"
)]

use proptest::prelude::*;

use super::*;
use crate::{
    Finding, SecretRule, Slots,
    fixture::{VALUE, chunkings, ph, request, rule},
};

/// Number 1 may be used everywhere, number 2 in no body, number 3 is nobody's.
fn rules() -> [SecretRule; 2] {
    let header_only = SecretRule {
        slots: Slots::default(),
        ..rule(2, "never")
    };
    [rule(1, VALUE), header_only]
}

fn run(kind: &BodyKind, chunks: &[&[u8]]) -> (Vec<u8>, Findings) {
    let mut body = request(rules()).body(kind);
    let mut out = Vec::new();
    for chunk in chunks {
        body.push(chunk, &mut out);
        assert!(body.held() <= 20 * 1024, "held {}", body.held());
    }
    let findings = body.finish(&mut out);
    assert_eq!(body.held(), 0);
    (out, findings)
}

/// The text with `@` as the placeholder, against the one with `#` as the value.
fn check(kind: &BodyKind, before: &str, after: &str, value: &str) {
    let before = before.replace('@', &ph(1));
    let after = after.replace('#', value);
    for chunks in chunkings(before.as_bytes()) {
        let (out, _) = run(kind, &chunks);
        assert_eq!(String::from_utf8_lossy(&out), after, "{before}");
    }
}

#[test]
fn kinds_are_told_by_their_type() {
    let multipart = |boundary: &str| {
        Some(BodyKind::Multipart {
            boundary: boundary.to_owned(),
        })
    };
    for (text, expected) in [
        ("application/json", Some(BodyKind::Json)),
        ("Application/JSON; charset=utf-8", Some(BodyKind::Json)),
        ("application/vnd.api+json", Some(BodyKind::Json)),
        ("application/x-ndjson", Some(BodyKind::Json)),
        ("application/x-www-form-urlencoded", Some(BodyKind::Form)),
        ("text/plain", Some(BodyKind::Text)),
        ("text/xml", Some(BodyKind::Xml)),
        ("application/soap+xml", Some(BodyKind::Xml)),
        ("text/html", Some(BodyKind::Xml)),
        ("multipart/form-data; boundary=abc", multipart("abc")),
        (
            "multipart/mixed; charset=\"a;b=c\"; Boundary=\"a\\\"b c\"",
            multipart("a\"b c"),
        ),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=\"\"", None),
        ("multipart/form-data; boundary=\"open", None),
        ("application/octet-stream", None),
        ("application/grpc", None),
        ("application/x-protobuf", None),
        ("image/png", None),
        ("json", None),
        ("", None),
    ] {
        assert_eq!(BodyKind::of_content_type(text), expected, "{text}");
    }
    let long = format!("multipart/form-data; boundary={}", "a".repeat(71));
    assert_eq!(BodyKind::of_content_type(&long), None);
}

/// SUB-06: strings of JSON.
#[test]
fn sub_06_strings_of_json() {
    let value = "sk-canary/0123+456789\\\"=abc";
    for (before, after) in [
        (r#"{"k":"@"}"#, r##"{"k":"#"}"##),
        (r#"{"@":{"a":["x @ y@"]}}"#, r##"{"#":{"a":["x # y#"]}}"##),
        (r#"{"a":"\\@\"@"}"#, r##"{"a":"\\#\"#"}"##),
        (r#"@ {"a":1} @"#, &format!("{0} {{\"a\":1}} {0}", ph(1))),
        (
            "{\"a\":\"1\"}\n{\"b\":\"@\"}\n",
            "{\"a\":\"1\"}\n{\"b\":\"#\"}\n",
        ),
        (r#""\u00"@""#, &format!(r#""\u00"{}""#, ph(1))),
        (r#""\u0x@""#, r#""\u0x#""#),
        (r#""open @"#, r#""open #"#),
        (r#""\"#, r#""\"#),
        (r#""\u004"#, r#""\u004"#),
    ] {
        check(&BodyKind::Json, before, after, value);
    }
    // Every character may be written as an escape, and half of one is none.
    let escaped: String = ph(1).bytes().map(|byte| format!("\\u{byte:04X}")).collect();
    let first = format!("\\u0044{}", &ph(1)[1..]);
    for spelling in [&escaped, &first] {
        check(
            &BodyKind::Json,
            &format!("[\"{spelling}\"]"),
            "[\"#\"]",
            value,
        );
        let cut = format!("[\"{}\"]", &spelling[..spelling.len() - 1]);
        check(&BodyKind::Json, &cut, &cut, value);
    }
}

/// SUB-07: forms text and xml.
#[test]
fn sub_07_forms_text_and_xml() {
    let percent = "sk-canary%2F0123%2B456789%22%3Dabc";
    for (before, after) in [
        (
            "a=@&b=%40+x&@=c&d",
            format!("a=#&b=%40+x&{}=c&d", ph(1)).as_str(),
        ),
        ("a=x@y=@&", "a=x#y=#&"),
        ("@", &ph(1)),
        ("a=%", "a=%"),
        ("a=%4", "a=%4"),
    ] {
        check(&BodyKind::Form, before, after, percent);
    }
    check(&BodyKind::Text, "a @\r\n@@", "a #\r\n##", VALUE);
    // The end of a beginning is a beginning again.
    for start in [
        "DENO_SECRET_PLACEHOL",
        "DENO_",
        "D",
        "DENO_SECRET_PLACEHOLDER_01",
    ] {
        let (before, after) = (format!("{start}@"), format!("{start}#"));
        check(&BodyKind::Text, &before, &after, VALUE);
    }
    let xml = "sk-canary/0123+456789&quot;=abc";
    check(&BodyKind::Xml, "<a b=\"@\">@</a>", "<a b=\"#\">#</a>", xml);
}

fn multipart() -> BodyKind {
    BodyKind::Multipart {
        boundary: "bnd".to_owned(),
    }
}

const FIELD: &str = "Content-Disposition: form-data; name=\"a\"\r\n\r\n";
const FILE: &str =
    "Content-Disposition: form-data; name=\"f\"; filename=\"x\"\r\nContent-Type: image/png\r\n\r\n";

/// SUB-07: text parts of multipart.
#[test]
fn sub_07_text_parts_of_multipart() {
    let text = "Content-Disposition: form-data; name=\"f\"; filename=\"x\"\r\nContent-Type: text/plain\r\n\r\n";
    let encoded = "Content-Transfer-Encoding: base64\r\n\r\n";
    for (headers, becomes) in [
        (FIELD, "#"),
        (text, "#"),
        ("\r\n", "#"),
        (FILE, "@"),
        (encoded, "@"),
        ("Content-Type: application/json\r\n\r\n", "@"),
        ("no colon\r\n\r\n", "@"),
    ] {
        let body =
            |content: &str| format!("--bnd\r\n{headers}{content} x\r\n--bnd\r\n{FIELD}{content}");
        let after = format!("--bnd\r\n{headers}{becomes} x\r\n--bnd\r\n{FIELD}#\r\n--bnd--\r\n@");
        let before = format!("{}\r\n--bnd--\r\n@", body("@"));
        check(&multipart(), &before, &after.replace('@', &ph(1)), VALUE);
    }
    // A preamble, and a part's name, are nobody's content.
    let named = format!("--bnd\r\n{}x\r\n--bnd--", FIELD.replace("\"a\"", "\"@\""));
    for before in ["@\r\n", "@", &named] {
        check(&multipart(), before, &before.replace('@', &ph(1)), VALUE);
    }
    // A part without content, whose headers end where the next delimiter begins.
    let none = format!("--bnd\r\n{FIELD}--bnd\r\n{FILE}@\r\n--bnd--");
    check(&multipart(), &none, &none.replace('@', &ph(1)), VALUE);
    // Empty parts, with and without headers.
    let empty = format!("--bnd\r\n{FIELD}\r\n--bnd\r\n\r\n--bnd\r\n\r\n@\r\n--bnd--");
    check(&multipart(), &empty, &empty.replace('@', "#"), VALUE);
}

/// SUB-07: what is not exactly multipart stays.
#[test]
fn sub_07_what_is_not_exactly_multipart_stays() {
    let long = format!("--bnd\r\nx: {}\r\n\r\n@\r\n--bnd--", "y".repeat(17 * 1024));
    for before in [
        "--bndx\r\n\r\n@\r\n--bnd\r\n\r\n@",
        "--bnd x\r\n\r\n@\r\n--bnd\r\n\r\n@",
        "--bnd\n\n@\n--bnd--",
        "--bnd--\r\n--bnd\r\n\r\n@",
        "--bnd\r\nx: y\r\n--bnd\r\n\r\n@",
        "--bnd\r\n--bnd\r\n\r\n@",
    ] {
        check(&multipart(), before, &before.replace('@', &ph(1)), VALUE);
    }
    let before = long.replace('@', &ph(1));
    assert_eq!(run(&multipart(), &[before.as_bytes()]).0, before.as_bytes());
}

/// A text of placeholders, of pieces of them, and of what means something.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(ph(1)),
        Just(ph(1)),
        Just(ph(1)),
        Just(ph(2)),
        Just(ph(3)),
        (0..=88_usize).prop_map(|length| ph(1)[..length].to_owned()),
        (0..=88_usize).prop_map(|start| ph(1)[start..].to_owned()),
        "[a-fD\"\\\\&=%/{}\\r\\n -]{0,6}",
        any::<char>().prop_map(String::from),
        Just("\r\n--bnd\r\n".to_owned()),
        Just(FIELD.to_owned()),
        Just(FILE.to_owned()),
        Just("--bnd".to_owned()),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn cut<'a>(text: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    at.sort_unstable();
    let mut chunks = Vec::new();
    let mut start = 0;
    for end in at.into_iter().chain([text.len()]) {
        chunks.push(&text[start..end]);
        start = end;
    }
    chunks
}

/// Everything that looks like a placeholder, anybody's.
fn placeholders(text: &str) -> impl Iterator<Item = String> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find("DENO_SECRET_PLACEHOLDER_")?;
            let candidate = rest.get(start..start + 88).unwrap_or_default();
            if candidate.parse::<tombolo_secret::Placeholder>().is_ok() {
                rest = &rest[start + 88..];
                return Some(candidate.to_owned());
            }
            rest = &rest[start + 1..];
        }
    })
}

/// What a text becomes, by looking at all of it.
fn naive(text: &str) -> String {
    text.replace(&ph(1), VALUE)
}

fn kinds() -> [BodyKind; 5] {
    [
        BodyKind::Text,
        BodyKind::Xml,
        BodyKind::Json,
        BodyKind::Form,
        multipart(),
    ]
}

fn substituted(findings: &Findings) -> u32 {
    let counts = findings.iter().map(|finding| match finding {
        Finding::Substituted { count, .. } => *count,
        _ => 0,
    });
    counts.sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// SUB-09.
    #[test]
    fn sub_09_pieces_do_not_matter(text in texts(), cuts: Vec<prop::sample::Index>) {
        for kind in kinds() {
            let whole = run(&kind, &[text.as_bytes()]);
            let pieces = run(&kind, &cut(text.as_bytes(), &cuts));
            let bytes = run(&kind, &text.as_bytes().chunks(1).collect::<Vec<_>>());
            prop_assert_eq!(&whole, &pieces);
            prop_assert_eq!(&whole, &bytes);
        }
    }

    #[test]
    fn text_is_as_a_naive_reader_makes_it(text in texts()) {
        let (out, findings) = run(&BodyKind::Text, &[text.as_bytes()]);
        prop_assert_eq!(String::from_utf8(out).unwrap(), naive(&text));
        let expected = placeholders(&text).filter(|found| *found == ph(1)).count();
        prop_assert_eq!(substituted(&findings) as usize, expected);
        let others = findings.iter().filter(|f| !matches!(f, Finding::Substituted { .. }));
        let counted = others.map(|finding| match finding {
            Finding::Ineligible { count, .. } | Finding::Foreign { count, .. } => *count as usize,
            Finding::Substituted { .. } => 0,
        });
        let expected = placeholders(&text).filter(|found| *found != ph(1)).count();
        prop_assert_eq!(counted.sum::<usize>(), expected);
    }

    /// SUB-06: the document still parses, and means what it should.
    #[test]
    fn sub_06_json_means_what_a_naive_reader_means(strings in prop::collection::vec(texts(), 0..4), escape: bool) {
        let mut document = serde_json::to_string(&strings).unwrap();
        if escape {
            document = document.replace('E', "\\u0045").replace('a', "\\u0061");
        }
        let (out, _) = run(&BodyKind::Json, &[document.as_bytes()]);
        let found: Vec<String> = serde_json::from_slice(&out).unwrap();
        let expected: Vec<String> = strings.iter().map(|text| naive(text)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn forms_mean_what_a_naive_reader_means(values in prop::collection::vec(texts(), 1..4)) {
        let encode = |text: &String| {
            let mut out = Vec::new();
            Encoding::Percent.encode(text, &mut out);
            String::from_utf8(out).unwrap()
        };
        let form = |values: &[String]| {
            let pairs: Vec<String> = values.iter().map(|value| format!("n={}", encode(value))).collect();
            pairs.join("&")
        };
        let (out, _) = run(&BodyKind::Form, &[form(&values).as_bytes()]);
        let expected: Vec<String> = values.iter().map(|text| naive(text)).collect();
        prop_assert_eq!(String::from_utf8(out).unwrap(), form(&expected));
    }

    #[test]
    fn any_bytes_pass(bytes: Vec<u8>, cuts: Vec<prop::sample::Index>) {
        for kind in kinds() {
            prop_assert_eq!(&run(&kind, &cut(&bytes, &cuts)).0, &bytes);
        }
    }
}

/// SUB-15: what cannot become a placeholder leaves at once.
#[test]
fn sub_15_only_beginnings_are_held() {
    for kind in [BodyKind::Text, BodyKind::Json] {
        let mut body = request(rules()).body(&kind);
        let mut out = Vec::new();
        for (chunk, held) in [
            ("\"data: x\n\n", 0),
            ("DEN", 3),
            ("O", 4),
            ("X", 0),
            (" DENO_SECRET_PLACEHOLDENO", 4),
            (" ", 0),
        ] {
            body.push(chunk.as_bytes(), &mut out);
            assert_eq!(body.held(), held, "{chunk}");
        }
    }
}
