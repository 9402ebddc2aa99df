//! The Rust SDK against real sandboxes: every public method of it, and every
//! example. The results are the table in `docs/reference/rust.md`; with
//! `UPDATE=1` it is written anew.
#![expect(
    clippy::tests_outside_test_module,
    clippy::expect_used,
    reason = "all of this file is a test"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tombolo_client::{Client, Endpoint, Token};
use tombolo_e2e::packages::workspace;
use tombolo_e2e::upstream::Upstream;
use tombolo_e2e::{Options, World, with_world_of};
use tombolo_proc::Command;

mod deno;
mod files;
mod processes;
mod rows;
mod sandboxes;

use rows::Rig;

/// Everything together.
const LIMIT: Duration = Duration::from_mins(8);
/// One row; one that takes longer hangs.
const ROW_MAX: Duration = Duration::from_secs(90);
/// One example.
const EXAMPLE_MAX: Duration = Duration::from_mins(1);
const PAGE: &str = "docs/reference/rust.md";
const BEGIN: &str = "<!-- rows: made by the test of the Rust SDK, do not edit -->\n";
const END: &str = "<!-- end of rows -->\n";
/// The value that is given to a secret.
const KEY: &str = "sk-of-the-rust-test";

async fn with_upstream<Body>(body: impl FnOnce(std::sync::Arc<World>, Upstream) -> Body)
where
    Body: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let upstream = Upstream::start().await.expect("the host starts");
    let options = Options {
        flags: upstream.flags(),
        ..Options::default()
    };
    with_world_of(options, LIMIT, |world| body(world, upstream)).await;
}

fn client(world: &World) -> anyhow::Result<Client> {
    let endpoint = Endpoint::parse(world.url())?;
    Ok(Client::new(endpoint, Token::new(world.token())))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_of_the_rust_sdk_does_what_it_says() {
    with_upstream(|world, upstream| async move {
        // The host lives as long as the rows.
        let _upstream = upstream;
        let rig = Rig::start(client(&world)?).await?;
        let only = std::env::var_os("ROWS").map(|rows| rows.to_string_lossy().into_owned());
        let mut failures = Vec::new();
        let mut names = Vec::new();
        for (name, row) in rows::all() {
            names.push(name);
            if only.as_ref().is_some_and(|only| !name.contains(only)) {
                continue;
            }
            let outcome = tokio::time::timeout(ROW_MAX, row(rig.clone())).await;
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failures.push(format!("{name}: {error:?}")),
                Err(_elapsed) => failures.push(format!("{name}: no end within {ROW_MAX:?}")),
            }
        }
        rig.end().await?;
        ensure!(failures.is_empty(), "{failures:#?}");
        every_public_method_has_a_row(&names)?;
        check_table(&names)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_runs() {
    with_upstream(|world, mut upstream| async move {
        let expected = [
            ("run", "42"),
            ("stream", "it said: hello grace"),
            ("files", "one TWO three"),
            ("network", "api.example.com answers 200"),
            ("expose", "1 exposure is left"),
            ("deno", "thrown: too far (RangeError)"),
        ];
        let mut there: Vec<String> = Vec::new();
        for entry in fs_err::read_dir(workspace().join("crates/client/examples"))? {
            let path = entry?.path();
            let name = path.file_stem().context("an example has a name")?;
            there.push(name.to_string_lossy().into_owned());
        }
        for name in there {
            let words = expected.iter().find(|(known, _)| *known == name);
            let (_, words) = words.with_context(|| format!("{name}: what should it say?"))?;
            let example = Command::new(built_example(&name)?)
                .envs(world.sdk_environment())
                .env("API_KEY", KEY)
                .deadline(EXAMPLE_MAX);
            let said = example.run().await?.stdout_text();
            ensure!(said.contains(words), "{name} says {said}");
        }
        upstream
            .says_at_last(&format!("credential: Bearer {KEY}"))
            .await?;
        ensure!(world.list().await?.values().all(|state| state != "running"));
        Ok(())
    })
    .await;
}

/// Where Cargo puts the examples that it builds with the tests.
fn built_example(name: &str) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let built = test.parent().and_then(Path::parent);
    let example = built.context("no directory")?.join("examples").join(name);
    ensure!(
        example.exists(),
        "{} is not built: run the tests with --workspace",
        example.display()
    );
    Ok(example)
}

/// The names of public methods, read from the sources, each have a row that
/// begins with them.
fn every_public_method_has_a_row(names: &[&str]) -> anyhow::Result<()> {
    let tested: Vec<&str> = names
        .iter()
        .flat_map(|name| name.split([',', ' ', '.', ':']))
        .filter(|word| !word.is_empty())
        .collect();
    let mut missing = Vec::new();
    let mut files = vec![workspace().join("crates/client/src")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            for entry in fs_err::read_dir(&path)? {
                files.push(entry?.path());
            }
            continue;
        }
        let text = fs_err::read_to_string(&path)?;
        for line in text.lines().map(str::trim_start) {
            let declared = line
                .strip_prefix("pub async fn ")
                .or_else(|| line.strip_prefix("pub fn "));
            let name = declared.and_then(|rest| rest.split(['(', '<']).next());
            // The setters of options come out of a table.
            let setter = line
                .split_once(": ")
                .filter(|(_, rest)| rest.contains(" => "));
            let setter = setter.filter(|_| path.ends_with("options.rs"));
            let name = name.or(setter.map(|(name, _)| name));
            let name = name.filter(|name| !name.contains('$'));
            if let Some(name) = name
                && !tested.contains(&name)
                && !rows::NOT_CALLS.contains(&name)
            {
                missing.push(format!("{}: {name}", path.display()));
            }
        }
    }
    ensure!(missing.is_empty(), "no row for {missing:#?}");
    Ok(())
}

fn check_table(names: &[&str]) -> anyhow::Result<()> {
    let path = workspace().join(PAGE);
    let page = fs_err::read_to_string(&path)?;
    let (before, rest) = page.split_once(BEGIN).context("the page has no rows")?;
    let (_, after) = rest.split_once(END).context("the rows have no end")?;
    let rows: Vec<_> = names.iter().map(|name| format!("- `{name}`\n")).collect();
    let rows = rows.concat();
    let current = format!("{before}{BEGIN}{rows}{END}{after}");
    if std::env::var_os("UPDATE").is_some() {
        fs_err::write(path, current)?;
        return Ok(());
    }
    ensure!(page == current, "{PAGE} is stale, run with UPDATE=1");
    Ok(())
}
