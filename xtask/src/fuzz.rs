//! `cargo xtask fuzz`: the parsers with generated input, for as long as wanted.
//!
//! What each harness did is appended to a record, one line of JSON each, so that a long run
//! can be shown afterwards.

use std::{
    io::Write as _,
    path::PathBuf,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use tombolo_fuzz::{ONLY_VARIABLE, REPORT_PREFIX, SEED_VARIABLE, SKIPPED_PREFIX};
use tombolo_proc::Command;

use crate::tools::{cargo, say, workspace};

/// Packages with harnesses, and how their tests are found.
const SUITES: [(&str, &[&str]); 3] = [
    ("tombolo-policy", &["--test", "fuzz"]),
    ("tombolo-substitute", &["--test", "fuzz"]),
    ("tombolo-egress", &["--lib"]),
];
/// The test that holds all harnesses of a suite.
const TEST: &str = "every_harness_holds";
/// Harnesses of a suite at most, for the time that it may take.
const HARNESSES_MAX: u32 = 16;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How long each harness runs.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// The one harness to run; all of them if left out.
    #[arg(long)]
    only: Option<String>,
    /// Repeat the input with this seed, which a failure printed.
    #[arg(long, requires = "only")]
    seed: Option<String>,
    /// Where to append what was done.
    #[arg(long, default_value = "target/fuzz.jsonl")]
    record: PathBuf,
}

/// What the harnesses of a suite said.
#[derive(Debug, Default, PartialEq)]
struct Said {
    /// What each did: its name, and how many inputs it had.
    reports: Vec<(String, u64)>,
    /// Those that were not wanted.
    skipped: Vec<String>,
}

impl Said {
    /// Takes a line that is for this program. Answers whether it was one for people.
    fn hear(&mut self, line: &str) -> bool {
        // The first line of a test follows what the test runner says of it.
        let line = line.rsplit(" ... ").next().unwrap_or(line);
        if let Some(name) = line.strip_prefix(SKIPPED_PREFIX) {
            self.skipped.push(name.trim().to_owned());
            return false;
        }
        let report = line
            .strip_prefix(REPORT_PREFIX)
            .and_then(|report| report.split_once(' '))
            .and_then(|(name, inputs)| Some((name.to_owned(), inputs.trim().parse().ok()?)));
        self.reports.extend(report);
        true
    }
}

/// What one harness did, or that a suite failed.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    unix_seconds: u64,
    commit: &'a str,
    package: &'a str,
    /// None: the suite failed; the output says which harness and with which seed.
    harness: Option<&'a str>,
    inputs: u64,
    minutes: f64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let budget = Duration::try_from_secs_f64(arguments.minutes * 60.0)
        .context("--minutes is a number that is not negative")?;
    let commit = Command::new("git")
        .inherit_env()
        .cwd(workspace())
        .args(["rev-parse", "HEAD"])
        .run_blocking()?
        .stdout_text();
    let mut failed = Vec::new();
    let mut skipped = Vec::new();
    let mut ran = 0;
    for (package, tests) in SUITES {
        let (said, is_well) = run_suite(arguments, budget, package, tests);
        skipped.extend(said.skipped);
        for (harness, inputs) in &said.reports {
            ran += 1;
            record(arguments, &commit, package, Some(harness), *inputs)?;
        }
        if !is_well {
            record(arguments, &commit, package, None, 0)?;
            failed.push(package);
        }
    }
    if !failed.is_empty() {
        bail!("properties do not hold in {}", failed.join(", "));
    }
    if ran == 0 {
        bail!(
            "there is no such harness; write one of {}",
            skipped.join(", ")
        );
    }
    say(&format!(
        "{ran} harnesses held; see {}",
        arguments.record.display()
    ));
    Ok(())
}

/// Runs the harnesses of a package. Answers what each did, and whether all properties held.
fn run_suite(
    arguments: &Arguments,
    budget: Duration,
    package: &str,
    tests: &[&str],
) -> (Said, bool) {
    let mut command = cargo(["test", "--release", "--quiet", "--package", package])
        .args(tests)
        .args(["--", TEST, "--nocapture"])
        .env("ARBTEST_BUDGET_MS", budget.as_millis().to_string())
        .deadline(budget * HARNESSES_MAX + Duration::from_hours(1));
    if let Some(only) = &arguments.only {
        command = command.env(ONLY_VARIABLE, only);
    }
    if let Some(seed) = &arguments.seed {
        command = command.env(SEED_VARIABLE, seed);
    }
    say(&format!("$ {}", command.display()));
    let said = Mutex::new(Said::default());
    let on_line = |line: &str| {
        if said.lock().is_ok_and(|mut said| said.hear(line)) {
            say(line);
        }
    };
    let is_well = match command.run_with_lines_blocking(on_line) {
        Ok(_output) => true,
        Err(error) => {
            say(&format!("{error:#}"));
            false
        }
    };
    (said.into_inner().unwrap_or_default(), is_well)
}

fn record(
    arguments: &Arguments,
    commit: &str,
    package: &str,
    harness: Option<&str>,
    inputs: u64,
) -> anyhow::Result<()> {
    let entry = Entry {
        unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
        commit,
        package,
        harness,
        inputs,
        minutes: arguments.minutes,
    };
    let path = workspace().join(&arguments.record);
    if let Some(directory) = path.parent() {
        fs_err::create_dir_all(directory)?;
    }
    let mut file = fs_err::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?;
    writeln!(file, "{}", serde_json::to_string(&entry)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_harnesses_say_is_told_apart() {
        let mut said = Said::default();
        let lines = [
            "running 1 test",
            "test every_harness_holds ... not fuzzed one",
            "fuzzed two 17",
            "not fuzzed three",
            "ok",
        ];
        let told: Vec<bool> = lines.iter().map(|line| said.hear(line)).collect();
        assert_eq!(told, [true, false, true, false, true]);
        let reports = vec![("two".to_owned(), 17)];
        let skipped = vec!["one".to_owned(), "three".to_owned()];
        assert_eq!(said, Said { reports, skipped });
    }
}
