//! The two official SDKs, straight from their registries and unmodified: every
//! method of theirs, and every example of ours. The results are the
//! conformance table in `docs/reference`; with `UPDATE=1` it is written anew.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tombolo_e2e::packages::{installed, workspace};
use tombolo_e2e::upstream::Upstream;
use tombolo_e2e::{Options, World, with_world_of};
use tombolo_proc::Command;

/// Everything together takes about four minutes.
const LIMIT: Duration = Duration::from_mins(14);
/// All rows of one SDK.
const ROWS_MAX: Duration = Duration::from_mins(6);
/// One example.
const EXAMPLE_MAX: Duration = Duration::from_mins(1);
/// The value that the drivers give to a secret.
const KEY: &str = "sk-of-the-conformance-test";
const TABLE: &str = "docs/reference/conformance.md";

/// What a conformance driver says of one call.
#[derive(Debug, Deserialize)]
struct Row {
    #[serde(rename = "row")]
    call: String,
    state: State,
    detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Pass,
    NotBuilt,
    ClientDefect,
    Fail,
}

impl State {
    fn words(self) -> &'static str {
        match self {
            Self::Pass => "passes",
            Self::NotBuilt => "not built yet, refused clearly",
            Self::ClientDefect => "impossible in the client",
            Self::Fail => "fails",
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sdks_do_what_the_table_says_and_every_example_runs() {
    let (python, javascript) = (Python::install().await, JavaScript::install().await);
    let (python, javascript) = (python.unwrap(), javascript.unwrap());
    let mut upstream = Upstream::start().await.unwrap();
    let options = Options {
        flags: upstream.flags(),
        ..Options::default()
    };
    with_world_of(options, LIMIT, async move |world| {
        let rows = [
            ("Python", python.rows(&world).await?),
            ("JavaScript", javascript.rows(&world).await?),
        ];
        for (sdk, rows) in &rows {
            let failed: Vec<_> = rows.iter().filter(|row| row.state == State::Fail).collect();
            ensure!(failed.is_empty(), "{sdk}: {failed:#?}");
        }
        // Each SDK called once, with a secret.
        for (sdk, _) in &rows {
            let seen = upstream.says_at_last(&format!("credential: {KEY}")).await;
            seen.with_context(|| format!("{sdk}: the value has not arrived"))?;
        }
        check_table(&table(&rows)?)?;
        python.examples(&world).await?;
        javascript.examples(&world).await?;
        python.readme(&world).await?;
        javascript.readme(&world).await
    })
    .await;
}

/// The files of a directory of examples, in order.
fn examples(directory: &str, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(workspace().join("examples").join(directory))? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort();
    ensure!(!files.is_empty(), "there are no examples in {directory}");
    Ok(files)
}

/// What the README shows of a language, as it is written there.
fn readme(language: &str) -> anyhow::Result<Vec<String>> {
    let page = fs_err::read_to_string(workspace().join("README.md"))?;
    let mut blocks = page.split("```");
    // Text and code take turns, and text comes first.
    let mut programs = Vec::new();
    while let (Some(_text), Some(code)) = (blocks.next(), blocks.next()) {
        if let Some(program) = code
            .strip_prefix(language)
            .and_then(|code| code.strip_prefix('\n'))
        {
            programs.push(program.to_owned());
        }
    }
    ensure!(!programs.is_empty(), "README.md shows no {language}");
    Ok(programs)
}

async fn rows_of(driver: Command, world: &World) -> anyhow::Result<Vec<Row>> {
    let driver = driver.envs(world.sdk_environment()).env("API_KEY", KEY);
    let driver = driver.env("INGRESS_ROOT", world.ingress_root());
    let driver = driver.deadline(ROWS_MAX);
    let output = driver.run().await?;
    let lines = output.stdout_text();
    let rows = lines.lines().filter(|line| line.starts_with("{\"row\""));
    rows.map(|line| serde_json::from_str(line).context(line.to_owned()))
        .collect()
}

async fn run_example(example: Command, world: &World) -> anyhow::Result<()> {
    let example = example.envs(world.sdk_environment()).deadline(EXAMPLE_MAX);
    let output = example.run().await?;
    ensure!(
        !output.stdout.is_empty(),
        "{} says nothing",
        example.display()
    );
    Ok(())
}

/// The Python SDK in an environment of its own.
struct Python {
    interpreter: PathBuf,
}

impl Python {
    async fn install() -> anyhow::Result<Self> {
        let pins = workspace().join("examples/python/requirements.txt");
        let directory = installed("python-environment", &pins, |directory| {
            let venv = Command::new("python3").args(["-m", "venv", "--clear"]);
            let pip = Command::new(directory.join("bin/python"));
            let pip = pip.args(["-m", "pip", "install", "--requirement"]);
            vec![venv.arg(directory), pip.arg(&pins)]
        })
        .await?;
        let interpreter = directory.join("bin/python");
        Ok(Self { interpreter })
    }

    async fn rows(&self, world: &World) -> anyhow::Result<Vec<Row>> {
        let driver = workspace().join("crates/e2e/sdk/conformance.py");
        rows_of(Command::new(&self.interpreter).arg(driver), world).await
    }

    async fn examples(&self, world: &World) -> anyhow::Result<()> {
        for example in examples("python", "py")? {
            run_example(Command::new(&self.interpreter).arg(example), world).await?;
        }
        Ok(())
    }

    async fn readme(&self, world: &World) -> anyhow::Result<()> {
        for program in readme("python")? {
            let python = Command::new(&self.interpreter).arg("-c").arg(program);
            run_example(python, world).await?;
        }
        Ok(())
    }
}

/// The JavaScript SDK, with copies of the examples beside it.
struct JavaScript {
    directory: PathBuf,
}

impl JavaScript {
    async fn install() -> anyhow::Result<Self> {
        let pins = workspace().join("examples/javascript/package.json");
        let directory = installed("javascript-packages", &pins, |directory| {
            let copy = Command::new("cp").arg(&pins).arg(directory);
            let npm = Command::new("npm").args(["install", "--no-audit", "--no-fund"]);
            vec![copy, npm.cwd(directory)]
        })
        .await?;
        Ok(Self { directory })
    }

    async fn rows(&self, world: &World) -> anyhow::Result<Vec<Row>> {
        let driver = workspace().join("crates/e2e/sdk/conformance.mjs");
        let node = Command::new("node").arg(driver).arg(&self.directory);
        rows_of(node, world).await
    }

    async fn examples(&self, world: &World) -> anyhow::Result<()> {
        for example in examples("javascript", "mjs")? {
            let name = example.file_name().context("an example has a name")?;
            let copy = self.directory.join(name);
            fs_err::copy(&example, &copy)?;
            run_example(Command::new("node").arg(copy), world).await?;
        }
        Ok(())
    }

    async fn readme(&self, world: &World) -> anyhow::Result<()> {
        for program in readme("js")? {
            let file = self.directory.join("readme.mjs");
            fs_err::write(&file, program)?;
            run_example(Command::new("node").arg(file), world).await?;
        }
        Ok(())
    }
}

/// The page of all rows.
fn table(sdks: &[(&str, Vec<Row>)]) -> anyhow::Result<String> {
    let mut page = "# Conformance\n\n\
        Made by the tests of both SDKs; do not edit. `UPDATE=1 cargo xtask test --ring sdk` makes it anew.\n\n\
        Every public method of the official Deno Sandbox SDKs, unmodified, called against real virtual machines.\n\
        The versions are those in `examples/`.\n"
        .to_owned();
    for (sdk, rows) in sdks {
        let count = |state| rows.iter().filter(|row| row.state == state).count();
        write!(
            page,
            "\n## {sdk}\n\n{} pass, {} are not built yet, {} are impossible in the client.\n\n| Call | State |\n|---|---|\n",
            count(State::Pass),
            count(State::NotBuilt),
            count(State::ClientDefect),
        )?;
        for Row {
            call,
            state,
            detail,
        } in rows
        {
            let colon = if detail.is_empty() { "" } else { ": " };
            writeln!(page, "| {call} | {}{colon}{detail} |", state.words())?;
        }
    }
    Ok(page)
}

fn check_table(page: &str) -> anyhow::Result<()> {
    let path = workspace().join(TABLE);
    if std::env::var_os("UPDATE").is_some() {
        fs_err::write(path, page)?;
        return Ok(());
    }
    let checked_in = fs_err::read_to_string(path)?;
    let stale: Vec<_> = page
        .lines()
        .filter(|line| !checked_in.lines().any(|other| other == *line))
        .collect();
    ensure!(
        page == checked_in,
        "{TABLE} is stale, run with UPDATE=1: {stale:#?}"
    );
    Ok(())
}
