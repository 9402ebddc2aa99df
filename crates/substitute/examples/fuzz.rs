//! Fuzzing on the stable compiler: generated requests and responses for a given
//! time, against the harnesses that the tests run briefly.
//!
//! `cargo run --release -p tombolo-substitute --example fuzz -- json --seconds 600`
//!
//! Without a name every harness gets its share of the time. A failure prints a
//! seed; `--seed 0x…` repeats it. There is no coverage feedback: the harnesses
//! make inputs from the pieces that the grammars are made of, so that deep
//! states are reached by construction.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a tool for developers that says what failed by failing"
)]

#[path = "fuzz/harness.rs"]
mod harness;

use std::{error::Error, process::ExitCode, time::Duration};

use harness::HARNESSES;

struct Options {
    name: Option<String>,
    seconds: u64,
    seed: Option<u64>,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        name: None,
        seconds: 60,
        seed: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seconds" => options.seconds = arguments.next().unwrap_or_default().parse()?,
            "--seed" => {
                let text = arguments.next().unwrap_or_default();
                options.seed = Some(u64::from_str_radix(text.trim_start_matches("0x"), 16)?);
            }
            _ => options.name = Some(argument),
        }
    }
    Ok(options)
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let options = options()?;
    let wanted = |name: &str| options.name.as_deref().is_none_or(|wanted| wanted == name);
    let chosen: Vec<_> = HARNESSES
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = HARNESSES.iter().map(|(name, _)| *name).collect();
        println!("no such harness; there are: {}", names.join(", "));
        return Ok(ExitCode::from(64));
    }
    let share = Duration::from_secs(options.seconds) / u32::try_from(chosen.len())?;
    for (name, harness) in chosen {
        let runs = harness::run(harness, share, options.seed);
        println!("{name}: {runs} runs in {} s", share.as_secs());
    }
    Ok(ExitCode::SUCCESS)
}
