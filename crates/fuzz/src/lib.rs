//! Generated inputs for parsers that read what guests and strangers send: for a moment in
//! each test run, and for as long as wanted with `cargo xtask fuzz`.
//!
//! A harness is a property: it makes an input of chance, feeds it to a parser and panics
//! when something does not hold. It runs on the stable compiler and has no coverage to
//! follow, so harnesses make their inputs from the pieces that the grammar is made of. What
//! is found becomes a case of the parser's own tests.
//!
//! Three variables of the environment, which `cargo xtask fuzz` sets:
//!
//! - `ARBTEST_BUDGET_MS`: how long each harness runs, in milliseconds;
//! - [`ONLY_VARIABLE`]: the one harness to run;
//! - [`SEED_VARIABLE`]: the input to repeat, as a failure printed it.
#![expect(
    clippy::print_stdout,
    reason = "what a harness did is told on standard output, where the tool reads it"
)]

use std::cell::Cell;

pub use arbtest::arbitrary::{Result, Unstructured};

/// Names the one harness that is to run.
pub const ONLY_VARIABLE: &str = "TOMBOLO_FUZZ_ONLY";
/// The seed that a failure printed, as `0x…`.
pub const SEED_VARIABLE: &str = "TOMBOLO_FUZZ_SEED";
/// What the line begins with that tells what a harness did: name and number of inputs
/// follow.
pub const REPORT_PREFIX: &str = "fuzzed ";
/// What the line begins with that names a harness which is not the wanted one.
pub const SKIPPED_PREFIX: &str = "not fuzzed ";

/// Bytes of chance that an input is made of.
const SIZE_MIN: u32 = 64;
const SIZE_MAX: u32 = 4096;

/// A property of every input.
pub type Harness = fn(&mut Unstructured<'_>) -> Result<()>;

/// Runs all of these, or the one that is wanted.
///
/// # Panics
/// When a property does not hold; the message has the seed that repeats it.
pub fn hold(harnesses: &[(&str, Harness)]) {
    let only = std::env::var_os(ONLY_VARIABLE);
    for (name, harness) in harnesses {
        if only.as_ref().is_none_or(|only| only == name) {
            run(name, *harness);
        } else {
            println!("{SKIPPED_PREFIX}{name}");
        }
    }
}

fn run(name: &str, harness: Harness) {
    let inputs = Cell::new(0);
    let property = |source: &mut Unstructured<'_>| {
        inputs.set(inputs.get() + 1);
        harness(source)
    };
    let test = arbtest::arbtest(property)
        .size_min(SIZE_MIN)
        .size_max(SIZE_MAX);
    match seed() {
        Some(seed) => test.seed(seed).run(),
        None => test.run(),
    }
    let inputs = inputs.get();
    println!("{REPORT_PREFIX}{name} {inputs}");
    assert!(inputs > 0, "{name} had no input");
}

fn seed() -> Option<u64> {
    let text = std::env::var_os(SEED_VARIABLE)?.into_string().ok()?;
    u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

/// Cuts a text at places of chance, as a network would.
///
/// # Errors
/// The chance is used up.
pub fn cut<'a>(source: &mut Unstructured<'_>, text: &'a [u8]) -> Result<Vec<&'a [u8]>> {
    let mut rest = text;
    let mut pieces = Vec::new();
    while !rest.is_empty() && pieces.len() < 64 {
        let (piece, more) = rest.split_at(source.int_in_range(0..=rest.len().min(200))?);
        pieces.push(piece);
        rest = more;
    }
    pieces.push(rest);
    Ok(pieces)
}

/// A text of the pieces of a grammar, with bytes of chance between them.
///
/// # Errors
/// The chance is used up.
pub fn text(source: &mut Unstructured<'_>, pieces: &[&str]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    while !source.is_empty() && text.len() < 8 * 1024 {
        match source.int_in_range(0..=9)? {
            0 => text.push(source.arbitrary()?),
            1 => {
                let wanted = usize::from(source.arbitrary::<u8>()?);
                text.extend_from_slice(source.bytes(wanted.min(source.len()))?);
            }
            2 => {
                let piece = *source.choose(pieces)?;
                let len = source.int_in_range(0..=piece.len())?;
                text.extend_from_slice(piece.as_bytes().get(..len).unwrap_or_default());
            }
            _ => text.extend_from_slice(source.choose(pieces)?.as_bytes()),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_that_does_not_hold_is_found() {
        let found = std::panic::catch_unwind(|| {
            hold(&[("wrong", |source| {
                let text = text(source, &["a", "b"])?;
                assert!(!text.starts_with(b"a"), "it begins with a");
                Ok(())
            })]);
        });
        assert!(found.is_err());
    }

    #[test]
    fn pieces_are_the_whole() {
        hold(&[("cut", |source| {
            let text = text(source, &["abc", "def"])?;
            let pieces = cut(source, &text)?;
            assert_eq!(pieces.concat(), text);
            Ok(())
        })]);
    }
}
