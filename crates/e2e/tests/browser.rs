//! A browser, as people have it, at what sandboxes expose: web programs of three
//! ecosystems, and VS Code. It is Debian's Chromium, which resolves the names by
//! itself and trusts this machine's authority.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use tombolo_e2e::packages::{installed, workspace};
use tombolo_e2e::{World, with_world};
use tombolo_proc::Command;

/// VS Code on an emulated processor that other tests use too.
const LIMIT: Duration = Duration::from_mins(8);
/// All that a browser does in a test.
const VISIT_MAX: Duration = Duration::from_mins(6);
const SCREENSHOT: &str = "docs/images/vscode.png";

/// A browser's home, and the packages that drive it.
struct Browser {
    home: TempDir,
    packages: PathBuf,
}

impl Browser {
    async fn install(world: &World) -> anyhow::Result<Self> {
        let pins = workspace().join("crates/e2e/browser/package.json");
        let packages = installed("browser-packages", &pins, |directory| {
            let copy = Command::new("cp").arg(&pins).arg(directory);
            let npm = Command::new("npm").args(["install", "--no-audit", "--no-fund"]);
            vec![copy, npm.cwd(directory)]
        })
        .await?;
        let home = TempDir::new()?;
        let database = home.path().join(".pki/nssdb");
        fs_err::create_dir_all(&database)?;
        let certutil = || {
            let database = format!("sql:{}", database.display());
            Command::new("certutil").args(["-d", &database])
        };
        let make = certutil().args(["-N", "--empty-password"]);
        make.run().await?;
        let trust = certutil().args(["-A", "-t", "C,,", "-n", "tombolo", "-i"]);
        trust.arg(world.ingress_root()).run().await?;
        Ok(Self { home, packages })
    }

    async fn visit(&self, driver: &str, args: &[&str]) -> anyhow::Result<()> {
        let driver = workspace().join("crates/e2e/browser").join(driver);
        Command::new("node")
            .arg(driver)
            .args([self.packages.as_path(), self.home.path()])
            .args(args)
            .inherit_env()
            .deadline(VISIT_MAX)
            .run()
            .await?;
        Ok(())
    }
}

async fn expose(world: &World, id: &str, port: &str) -> anyhow::Result<String> {
    let shown = world.tombolo(["sandbox", "expose", id, port]).run().await?;
    Ok(shown.stdout_text().trim().to_owned())
}

async fn copy(world: &World, id: &str, file: &Path) -> anyhow::Result<()> {
    let file = file.to_str().context("a path is text")?;
    let copy = ["sandbox", "copy", file, &format!("{id}:")];
    world.tombolo(copy).run().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn web_programs_of_three_ecosystems_work_in_a_browser() {
    with_world(LIMIT, visits).await;
}

async fn visits(world: Arc<World>) -> anyhow::Result<()> {
    let browser = Browser::install(&world).await?;
    let id = world.create().await?;
    // What npm installed on this side, but for what drives the browser.
    let archive = browser.home.path().join("packages.tar");
    Command::new("tar")
        .args(["--exclude=playwright-core", "--create", "--file"])
        .arg(&archive)
        .arg("--directory")
        .args([browser.packages.as_path(), Path::new("node_modules")])
        .run()
        .await?;
    let ours = workspace().join("crates/e2e/browser");
    for file in [archive, ours.join("express.mjs"), ours.join("deno.ts")] {
        copy(&world, &id, &file).await?;
    }
    let start = "set -e; tar -xf packages.tar; mkdir site; truncate -s 20000000 site/large.bin
        start() { setsid \"$@\" > /dev/null 2>&1 & }
        start node express.mjs
        start deno run --allow-net deno.ts
        start python3 -m http.server 8003 --directory site
        for port in 8001 8002 8003; do
          curl --silent --fail --output /dev/null --retry 90 --retry-delay 1 \
            --retry-connrefused http://127.0.0.1:$port/
        done";
    world.shell_text(&id, start).await?;
    let mut addresses = Vec::new();
    for port in ["8001", "8002", "8003"] {
        addresses.push(expose(&world, &id, port).await?);
    }
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    browser.visit("pages.mjs", &addresses).await?;
    world.kill(&id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_edited_saved_and_run_in_vscode() {
    with_world(LIMIT, edits).await;
}

/// The editor that runs has one public address, however often it is asked for.
async fn found_again(world: &World, id: &str) -> anyhow::Result<()> {
    let code = ["sandbox", "code", id, "/home/app/./project"];
    let first = world.tombolo(code).run().await?.stdout_text();
    let second = world.tombolo(code).run().await?.stdout_text();
    ensure!(
        first == second && first.starts_with("https://"),
        "{first} {second}"
    );
    let count = world.shell_text(id, "pgrep --parent 1 --full --count [c]ode-server/out/node");
    let count = count.await?;
    ensure!(count == "1", "{count} editors");
    Ok(())
}

async fn edits(world: Arc<World>) -> anyhow::Result<()> {
    let browser = Browser::install(&world).await?;
    let id = world.create().await?;
    let prepare = "mkdir project site; echo '# nothing yet' > project/hello.py
        echo '<h1>a page of the sandbox</h1>' > site/index.html
        setsid python3 -m http.server 8000 --directory site > /dev/null 2>&1 &";
    world.shell_text(&id, prepare).await?;
    let preview = format!("{}/", expose(&world, &id, "8000").await?);
    let code = ["sandbox", "code", &id, "project", "--private", "--preview"];
    let shown = world.tombolo(code).arg(preview).run().await?.stdout_text();
    let address = shown.trim();
    ensure!(address.contains("/?tombolo_access="), "{address}");
    found_again(&world, &id).await?;
    let screenshot = workspace().join(SCREENSHOT);
    let screenshot = match std::env::var_os("UPDATE") {
        Some(_) => screenshot.to_str().context("a path is text")?,
        None => "",
    };
    browser.visit("vscode.mjs", &[address, screenshot]).await?;
    let result = world.shell_text(&id, "cat project/result.txt").await?;
    ensure!(result == "written in VS Code", "{result}");
    // It was told to stop, and does.
    let gone = "for _ in $(seq 600); do pgrep -f [c]ode-server/out/node > /dev/null || exit 0; \
                sleep 0.1; done; exit 1";
    world.shell_text(&id, gone).await?;
    world.kill(&id).await
}
