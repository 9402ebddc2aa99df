//! How fast requests and responses are searched: gigabytes a second for one
//! and many secrets, at several sizes of chunks, and microseconds for a head.
//!
//! `cargo run --release -p tombolo-substitute --example scrub_speed`
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a tool for developers, whose output is a table"
)]
#![expect(
    clippy::disallowed_types,
    reason = "what is measured is the wall clock, and nothing here is asynchronous"
)]

use std::{hint::black_box, sync::Arc, time::Instant};

use tombolo_secret::{Placeholder, SecretName, SecretValue};
use tombolo_substitute::{
    BodyKind, Composites, Destination, Flow, Plaintext, RequestSubstitution, Requirement, Scheme,
    ScrubMode, SecretRule, SecretTable, Slot, Slots,
};

const BYTES: usize = 256 << 20;
const CHUNKS: [usize; 4] = [256, 1 << 10, 16 << 10, 64 << 10];

fn rule(number: u8) -> SecretRule {
    // Values without a common beginning, as tokens of different services are.
    let hash = u64::from(number)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let value = format!("{:x}-{hash:016x}{:016x}", number % 16, hash.rotate_left(17));
    SecretRule {
        name: SecretName::parse(&format!("KEY{number}")).unwrap(),
        placeholder: Placeholder::from_bytes([number; 32]),
        value: SecretValue::new(value).unwrap(),
        hosts: vec!["api.example.com".parse().unwrap()],
        slots: Slots::from_iter(Slot::ALL),
        plaintext: Plaintext::Refused,
        requirement: Requirement::Optional,
        injection: None,
    }
}

/// JSON as services write it: words, numbers, identifiers.
fn text(len: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(len + 128);
    let mut number = 1_u64;
    while text.len() < len {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let record = format!(
            "{{\"id\": \"{number:016x}\", \"name\": \"The Quick Brown Fox\", \"count\": {}, \"url\": \"https://example.com/a/{}\"}},\n",
            number % 1000,
            number >> 48
        );
        text.extend_from_slice(record.as_bytes());
    }
    text.truncate(len);
    text
}

fn gigabytes_per_second(bytes: usize, run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    #[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
    let bytes = bytes as f64;
    bytes / start.elapsed().as_secs_f64() / 1e9
}

fn main() {
    let sample = text(1 << 20);
    println!("| search | 256 B | 1 KiB | 16 KiB | 64 KiB | GB/s");
    for secrets in [1, 3, 8, 64] {
        let start = Instant::now();
        let table = Arc::new(SecretTable::new((0..secrets).map(rule).collect()).unwrap());
        let built = start.elapsed();
        let row: Vec<String> = CHUNKS
            .iter()
            .map(|size| format!("{:.2}", responses(&table, &sample, *size)))
            .collect();
        println!(
            "| responses, {secrets} secrets (built in {built:?}) | {}",
            row.join(" | ")
        );
    }
    let table = Arc::new(SecretTable::new(vec![rule(0)]).unwrap());
    for kind in [BodyKind::Text, BodyKind::Json, BodyKind::Form] {
        let row: Vec<String> = CHUNKS
            .iter()
            .map(|size| format!("{:.2}", requests(&table, &kind, &sample, *size)))
            .collect();
        println!("| request body, {kind:?} | {}", row.join(" | "));
    }
    for secrets in [1, 200] {
        println!(
            "| head of 12 headers, {secrets} secrets | {:.2} us",
            head(secrets)
        );
    }
}

fn responses(table: &SecretTable, sample: &[u8], size: usize) -> f64 {
    let mut scrubber = table
        .scrubber(&Composites::default(), ScrubMode::Placeholder)
        .unwrap();
    let mut out = Vec::with_capacity(2 * size);
    gigabytes_per_second(BYTES, || {
        for _ in 0..BYTES / sample.len() {
            for chunk in sample.chunks(size) {
                out.clear();
                scrubber.push(black_box(chunk), &mut out);
                black_box(&out);
            }
        }
    })
}

fn destination() -> Destination<'static> {
    Destination {
        host: "api.example.com",
        port: 443,
        scheme: Scheme::Https,
        flow: Flow::Terminated,
    }
}

fn requests(table: &Arc<SecretTable>, kind: &BodyKind, sample: &[u8], size: usize) -> f64 {
    let request = RequestSubstitution::new(table, table.eligibility(&destination()));
    let mut body = request.body(kind);
    let mut out = Vec::with_capacity(2 * size);
    gigabytes_per_second(BYTES, || {
        for _ in 0..BYTES / sample.len() {
            for chunk in sample.chunks(size) {
                out.clear();
                body.push(black_box(chunk), &mut out);
                black_box(&out);
            }
        }
    })
}

fn head(secrets: u8) -> f64 {
    const REQUESTS: u32 = 100_000;
    let table = Arc::new(SecretTable::new((0..secrets).map(rule).collect()).unwrap());
    let authorization = format!("Bearer {}", Placeholder::from_bytes([0; 32]));
    let start = Instant::now();
    for _ in 0..REQUESTS {
        let eligibility = table.eligibility(&destination());
        let mut request = RequestSubstitution::new(&table, eligibility);
        black_box(request.header("authorization", authorization.as_bytes())).unwrap();
        for name in [
            "accept",
            "user-agent",
            "content-type",
            "x-a",
            "x-b",
            "x-c",
            "x-d",
            "x-e",
            "x-f",
            "x-g",
            "x-h",
        ] {
            black_box(request.header(name, b"application/json; some value")).unwrap();
        }
        black_box(request.query("a=b&c=d"));
        black_box(request.path("/v1/chat/completions")).unwrap();
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(REQUESTS)
}
