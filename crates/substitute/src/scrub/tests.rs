//! Scrubbing, named after the cases of the attack list, and against a naive
//! reader of the whole.
#![expect(
    clippy::format_collect,
    reason = "hexadecimal texts are short and made once"
)]

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::*;
use crate::{
    Composites, SecretTable,
    fixture::{VALUE, chunkings, ph, request, rule, table},
    needle::needles_of,
};

fn scrub(
    table: &SecretTable,
    composites: &Composites,
    mode: ScrubMode,
    chunks: &[&[u8]],
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut scrubber = table.scrubber(composites, mode).unwrap();
    for chunk in chunks {
        scrubber.push(chunk, &mut out);
    }
    scrubber.finish(&mut out);
    assert_eq!(scrubber.held(), 0);
    out
}

fn check(text: &str, expected: &str) {
    let table = table([rule(1, VALUE)]);
    for chunks in chunkings(text.as_bytes()) {
        let none = Composites::default();
        let out = scrub(&table, &none, ScrubMode::Placeholder, &chunks);
        assert_eq!(String::from_utf8_lossy(&out), expected);
        let out = scrub(&table, &none, ScrubMode::Mask, &chunks);
        assert_eq!(out.len(), text.len());
    }
}

/// REF-01, REF-02: an echo shows the placeholder.
#[test]
fn ref_01_an_echo_shows_the_placeholder() {
    check(
        &format!("{{\"auth\": \"Bearer {VALUE}\"}}"),
        &format!("{{\"auth\": \"Bearer {}\"}}", ph(1)),
    );
    check(&format!("{VALUE}{VALUE}"), &ph(1).repeat(2));
    let almost = &VALUE[..VALUE.len() - 1];
    check(almost, almost);
    check(&format!("{almost}{VALUE}"), &format!("{almost}{}", ph(1)));
    check("", "");
}

/// REF-02: what cannot become a needle leaves at once.
#[test]
fn ref_02_only_beginnings_are_held() {
    let table = table([rule(1, "sk-abcdefgh")]);
    let none = Composites::default();
    let mut scrubber = table.scrubber(&none, ScrubMode::Placeholder).unwrap();
    let mut out = Vec::new();
    for (chunk, held) in [
        ("data: hello\n\n", 0),
        ("sk-", 3),
        ("abc", 6),
        ("X\n\n", 0),
        ("sk-sk-a", 4),
        ("bcdefgh", 0),
    ] {
        scrubber.push(chunk.as_bytes(), &mut out);
        assert_eq!(scrubber.held(), held, "{chunk}");
    }
    let expected = format!("data: hello\n\nsk-abcX\n\nsk-{}", ph(1));
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    assert_eq!(scrubber.scrubbed(), 1);
}

/// REF-05: through the automaton.
#[test]
fn ref_05_no_encoding_of_the_value_is_left() {
    let table = table([rule(1, VALUE)]);
    let hex: String = VALUE.bytes().map(|byte| format!("{byte:02x}")).collect();
    let utf16: Vec<u8> = VALUE.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for text in [
        hex.clone().into_bytes(),
        hex.to_uppercase().into_bytes(),
        serde_json::to_vec(VALUE).unwrap(),
        STANDARD.encode(VALUE).into_bytes(),
        STANDARD.encode(format!("a{VALUE}")).into_bytes(),
        STANDARD.encode(format!("ab{VALUE}z")).into_bytes(),
        utf16,
    ] {
        for chunks in chunkings(&text) {
            let out = scrub(
                &table,
                &Composites::default(),
                ScrubMode::Placeholder,
                &chunks,
            );
            let found = needles_of(VALUE, "").into_iter().any(|needle| {
                out.windows(needle.real().len())
                    .any(|window| window == needle.real())
            });
            assert!(!found, "{}", String::from_utf8_lossy(&text));
            assert_ne!(out, text);
        }
    }
}

/// REF-06, REF-10, REF-13: headers, and all secrets whatever the host.
#[test]
fn ref_06_values_of_headers() {
    let table = table([rule(1, VALUE), rule(2, "another-value")]);
    let none = Composites::default();
    let location = b"https://evil.test/?t=another-value";
    let found = table.scrub(&none, ScrubMode::Placeholder, location);
    let expected = format!("https://evil.test/?t={}", ph(2));
    assert_eq!(found, Some(expected.into_bytes()));
    assert_eq!(
        table.scrub(&none, ScrubMode::Placeholder, b"text/plain"),
        None
    );
    assert_eq!(table.scrub(&none, ScrubMode::Placeholder, b""), None);
    let empty = SecretTable::new(Vec::new()).unwrap();
    assert_eq!(empty.scrub(&none, ScrubMode::Placeholder, location), None);
}

/// REF-15: also when the value is too short to be searched for by itself.
#[test]
fn ref_15_the_token_of_basic_becomes_the_guest_s_own() {
    for value in [VALUE, "short"] {
        let rules = [rule(1, value)];
        let table = table(rules.clone());
        let mut request = request(rules);
        let sent = STANDARD.encode(format!("user:{}", ph(1)));
        let header = format!("Basic {sent}");
        let real = request
            .header("authorization", header.as_bytes())
            .unwrap()
            .unwrap();
        let mut composites = Composites::default();
        for composite in request.take_composites() {
            composites.register(composite).unwrap();
        }
        for echo in [
            real.to_vec(),
            real[..]
                .iter()
                .map(|b| match b {
                    b'+' => b'-',
                    b'/' => b'_',
                    b => *b,
                })
                .collect(),
        ] {
            for chunks in chunkings(&echo) {
                let out = scrub(&table, &composites, ScrubMode::Placeholder, &chunks);
                let found = String::from_utf8(out).unwrap();
                assert_eq!(found.trim_end_matches('='), header.trim_end_matches('='));
            }
        }
    }
}

#[test]
fn composites_are_bounded() {
    let mut composites = Composites::default();
    let one = |number: usize| {
        let real = zeroize::Zeroizing::new(format!("composite-{number:04}").into_bytes());
        crate::Composite::new(real, b"shown".to_vec()).unwrap()
    };
    for number in 0..=crate::COMPOSITES_MAX {
        composites.register(one(number)).unwrap();
        composites.register(one(number)).unwrap();
    }
    let empty = SecretTable::new(Vec::new()).unwrap();
    let scrub = |text: &[u8]| empty.scrub(&composites, ScrubMode::Placeholder, text);
    assert_eq!(scrub(b"composite-0000"), None, "the oldest is forgotten");
    assert_eq!(scrub(b"composite-0001").unwrap(), b"shown");
    assert_eq!(scrub(b"composite-0064").unwrap(), b"shown");
    assert!(crate::Composite::new(zeroize::Zeroizing::new(Vec::new()), Vec::new()).is_none());
}

/// REF-17, REF-19: a mask keeps every length.
#[test]
fn ref_17_a_mask_keeps_every_length() {
    let table = table([rule(1, VALUE)]);
    let mut text = vec![0x0a, u8::try_from(VALUE.len()).unwrap()];
    text.extend_from_slice(VALUE.as_bytes());
    let out = scrub(&table, &Composites::default(), ScrubMode::Mask, &[&text]);
    assert_eq!(&out[..2], &text[..2]);
    assert_eq!(out[2..], vec![b'*'; VALUE.len()]);
    let binary: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let chunks: Vec<&[u8]> = binary.chunks(4096).collect();
    let out = scrub(&table, &Composites::default(), ScrubMode::Mask, &chunks);
    assert!(out == binary);
}

#[test]
fn many_needles_take_the_other_search() {
    let rules: Vec<_> = (0..64)
        .map(|n| rule(n, &format!("value-number-{n:03}-{n:03}")))
        .collect();
    let table = table(rules);
    let (text, expected): (Vec<String>, Vec<String>) = (0..64)
        .map(|n| {
            (
                format!("<value-number-{n:03}-{n:03}>"),
                format!("<{}>", ph(n)),
            )
        })
        .unzip();
    let text = text.join(&"padding ".repeat(300));
    let expected = expected.join(&"padding ".repeat(300));
    for size in [1, 7, 64, 1000, 16_384, 1 << 20] {
        let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        let out = scrub(
            &table,
            &Composites::default(),
            ScrubMode::Placeholder,
            &chunks,
        );
        assert!(out == expected.as_bytes(), "{size}");
    }
}

/// Leftmost, longest, by trying every needle everywhere.
fn naive(needles: &BTreeSet<Vec<u8>>, text: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let fitting = needles
            .iter()
            .filter(|needle| text[at..].starts_with(needle));
        if let Some(needle) = fitting.max_by_key(|needle| needle.len()) {
            out.extend(std::iter::repeat_n(b'*', needle.len()));
            at += needle.len();
        } else {
            out.push(text[at]);
            at += 1;
        }
    }
    out
}

fn automaton(needles: &BTreeSet<Vec<u8>>) -> Option<Arc<Automaton>> {
    let needles = needles
        .iter()
        .map(|real| Needle::new(real.clone(), Vec::new()));
    Automaton::build(needles.collect()).unwrap().map(Arc::new)
}

fn search(automaton: &Arc<Automaton>, chunks: &[&[u8]]) -> Vec<u8> {
    let mut stage = Stage::new(Arc::clone(automaton), ScrubMode::Mask);
    let mut out = Vec::new();
    for chunk in chunks {
        stage.push(chunk, End::Open, &mut out);
        assert!(stage.held.len() < automaton.longest);
    }
    stage.push(&[], End::Final, &mut out);
    out
}

fn cut<'a>(text: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    at.sort_unstable();
    let mut start = 0;
    let ends = at.into_iter().chain([text.len()]);
    ends.map(|end| {
        let chunk = &text[start..end];
        start = end;
        chunk
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Few letters, so that needles overlap, nest and repeat.
    #[test]
    fn any_needles_in_any_pieces(
        needles in prop::collection::btree_set("[ab]{1,6}".prop_map(String::into_bytes), 1..8),
        text in "[abc]{0,60}",
        cuts: Vec<prop::sample::Index>,
    ) {
        let text = text.as_bytes();
        let automaton = automaton(&needles).unwrap();
        let expected = naive(&needles, text);
        prop_assert_eq!(&search(&automaton, &[text]), &expected);
        prop_assert_eq!(&search(&automaton, &cut(text, &cuts)), &expected);
        prop_assert_eq!(&search(&automaton, &text.chunks(1).collect::<Vec<_>>()), &expected);
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// So many and so long that the search is the one of Wu and Manber.
    #[test]
    fn many_needles_in_any_pieces(
        needles in prop::collection::btree_set("[a-d]{4,9}".prop_map(String::into_bytes), 140..160),
        text in "[a-d]{0,400}",
        cuts: Vec<prop::sample::Index>,
    ) {
        let text = text.as_bytes();
        let automaton = automaton(&needles).unwrap();
        prop_assert!(automaton.skip.is_some() || automaton.nfa.prefilter().is_some());
        let expected = naive(&needles, text);
        prop_assert_eq!(&search(&automaton, &[text]), &expected);
        prop_assert_eq!(&search(&automaton, &cut(text, &cuts)), &expected);
    }
}

#[test]
fn states_know_their_depth() {
    let needles: BTreeSet<Vec<u8>> = ["abab", "bab", "babc", "b", "xyzab"]
        .into_iter()
        .map(|needle| needle.as_bytes().to_vec())
        .collect();
    let automaton = automaton(&needles).unwrap();
    for needle in &needles {
        let mut state = automaton.start;
        for (at, byte) in needle.iter().enumerate() {
            state = automaton.nfa.next_state(Anchored::No, state, *byte);
            assert!(!automaton.nfa.is_dead(state));
            assert_eq!(automaton.depth(state), at + 1);
        }
    }
}
