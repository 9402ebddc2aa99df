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
/// What the line begins with that tells what a harness did (`crates/fuzz`).
const REPORT_PREFIX: &str = "fuzzed ";

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
    let mut ran = 0;
    for (package, tests) in SUITES {
        let (reports, is_well) = run_suite(arguments, budget, package, tests);
        for (harness, inputs) in &reports {
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
        bail!("there is no such harness");
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
) -> (Vec<(String, u64)>, bool) {
    let mut command = cargo(["test", "--release", "--quiet", "--package", package])
        .args(tests)
        .args(["--", TEST, "--nocapture"])
        .env("ARBTEST_BUDGET_MS", budget.as_millis().to_string())
        .deadline(budget * HARNESSES_MAX + Duration::from_hours(1));
    if let Some(only) = &arguments.only {
        command = command.env("TOMBOLO_FUZZ_ONLY", only);
    }
    if let Some(seed) = &arguments.seed {
        command = command.env("TOMBOLO_FUZZ_SEED", seed);
    }
    say(&format!("$ {}", command.display()));
    let reports = Mutex::new(Vec::new());
    let on_line = |line: &str| {
        say(line);
        let report = line
            .split_once(REPORT_PREFIX)
            .and_then(|(_, report)| report.split_once(' '))
            .and_then(|(name, inputs)| Some((name.to_owned(), inputs.trim().parse().ok()?)));
        if let (Some(report), Ok(mut reports)) = (report, reports.lock()) {
            reports.push(report);
        }
    };
    let is_well = match command.run_with_lines_blocking(on_line) {
        Ok(_output) => true,
        Err(error) => {
            say(&format!("{error:#}"));
            false
        }
    };
    (reports.into_inner().unwrap_or_default(), is_well)
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
