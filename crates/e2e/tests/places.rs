//! One server on a state directory: which one, when several are started, and what of
//! the sandboxes and the commands of the one that makes room.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "all of this file is a test"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Child;
use tokio::time::{sleep, timeout};
use tombolo_e2e::{all_set_up, on_its_own};
use tombolo_proc::Output;

const LIMIT: Duration = Duration::from_mins(4);
const STEP_MAX: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often a command and a server that comes to stay are started at one moment.
const ROUNDS: usize = 4;

/// Of `server.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Running {
    pid: i32,
    settings: Settings,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Settings {
    pool_size: usize,
}

/// A state directory, and whatever serves there.
struct Place<'a>(&'a Path);

impl Place<'_> {
    async fn tombolo(&self, args: &[&str]) -> anyhow::Result<Output> {
        Ok(on_its_own(self.0)?.args(args).output().await?)
    }

    /// Prints a word in a sandbox of its own.
    async fn run(&self) -> anyhow::Result<()> {
        says(&self.tombolo(&["run", "--", "echo", "ran"]).await?, "ran")
    }

    fn up(&self) -> anyhow::Result<Child> {
        let free = "127.0.0.1:0";
        let command = on_its_own(self.0)?
            .args(["up", "--json", "--listen", free])
            .args(["--ingress-listen", free, "--ssh-listen", free])
            .arg("--state-dir")
            .arg(self.0);
        Ok(command.spawn(Stdio::null(), Stdio::piped(), Stdio::piped())?)
    }

    fn running(&self) -> anyhow::Result<Running> {
        let text = fs_err::read_to_string(self.0.join("run/server.json"))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Ends the server that runs, if one does.
    async fn end(&self) -> anyhow::Result<()> {
        let Ok(running) = self.running() else {
            return Ok(());
        };
        let pid = Pid::from_raw(running.pid).context("a process id")?;
        if kill_process(pid, Signal::TERM).is_ok() {
            gone(running.pid).await?;
        }
        Ok(())
    }
}

/// What became of a `tombolo up`.
#[derive(Debug)]
enum Came {
    /// It serves.
    Up,
    /// It was refused, with this exit code and these words.
    Refused(Option<i32>, String),
}

/// Waits until it serves or has ended.
async fn came(up: &mut Child) -> anyhow::Result<Came> {
    let output = up.stdout.take().context("standard output is piped")?;
    let mut errors = up.stderr.take().context("standard error is piped")?;
    let mut line = String::new();
    timeout(STEP_MAX, BufReader::new(output).read_line(&mut line)).await??;
    if line.contains("\"url\"") {
        // Whoever reads on keeps it from waiting for a reader.
        tokio::spawn(async move { tokio::io::copy(&mut errors, &mut tokio::io::sink()).await });
        return Ok(Came::Up);
    }
    let mut words = String::new();
    timeout(STEP_MAX, errors.read_to_string(&mut words)).await??;
    let status = timeout(STEP_MAX, up.wait()).await??;
    Ok(Came::Refused(status.code(), words))
}

fn refused(came: &Came, words: &[&str]) -> anyhow::Result<()> {
    let Came::Refused(Some(75), said) = came else {
        anyhow::bail!("it is not refused: {came:?}");
    };
    for word in words {
        ensure!(said.contains(word), "{word}: {said}");
    }
    Ok(())
}

fn says(output: &Output, words: &str) -> anyhow::Result<()> {
    let said = output.stdout_text();
    let stderr = output.stderr_tail();
    ensure!(output.status.success(), "{stderr}");
    ensure!(
        said.trim() == words,
        "{said:?} instead of {words}: {stderr}"
    );
    Ok(())
}

async fn gone(pid: i32) -> anyhow::Result<()> {
    // What has ended has no command line any more, also while nobody has asked for its end.
    let runs = || {
        let line = fs_err::read(format!("/proc/{pid}/cmdline"));
        line.is_ok_and(|line| !line.is_empty())
    };
    let ended = async {
        while runs() {
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(STEP_MAX, ended).await.context("it does not end")
}

/// Runs `body` on a state directory of its own and ends the server that is there then.
async fn on_a_place(body: impl AsyncFnOnce(&Place<'_>) -> anyhow::Result<()>) {
    let state = all_set_up().await.unwrap();
    let place = Place(state.path());
    let outcome = timeout(LIMIT, body(&place)).await;
    place.end().await.unwrap();
    outcome.unwrap().unwrap();
}

#[tokio::test]
async fn up_takes_the_place_of_what_run_started_and_only_of_that() {
    on_a_place(async |place| {
        place.run().await?;
        let background = place.running()?;
        let (mut one, mut other) = (place.up()?, place.up()?);
        let both = tokio::try_join!(came(&mut one), came(&mut other))?;
        let (came_up, late) = match both {
            (Came::Up, late) => (&mut one, late),
            (late, Came::Up) => (&mut other, late),
            neither => anyhow::bail!("none came up: {neither:?}"),
        };
        refused(&late, &["runs on", "already", "hint: it is process"])?;
        gone(background.pid).await?;
        let stays = place.running()?;
        ensure!(stays.pid != background.pid);

        // From now on it is the one, whatever is started.
        place.run().await?;
        refused(
            &came(&mut place.up()?).await?,
            &["already", "stop it by: kill"],
        )?;
        let settings = place.0.join("other.toml");
        fs_err::write(&settings, "vcpu_count = 1\n")?;
        let settings = settings.to_str().context("a path")?;
        let run = place
            .tombolo(&["run", "--config", settings, "true"])
            .await?;
        ensure!(run.status.code() == Some(78), "{}", run.stderr_tail());
        ensure!(run.stderr_tail().contains("kill"), "{}", run.stderr_tail());
        ensure!(place.running()? == stays);
        place.end().await?;
        timeout(STEP_MAX, came_up.wait()).await??;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_run_started_keeps_its_sandboxes_and_makes_room_without_them() {
    on_a_place(async |place| {
        place.run().await?;
        let create = place
            .tombolo(&["sandbox", "create", "--timeout", "10m"])
            .await?;
        let sandbox = create.stdout_text().trim().to_owned();
        let there = place.running()?;
        let words = [sandbox.as_str(), "tombolo sandbox kill --all"];
        refused(&came(&mut place.up()?).await?, &words)?;
        let settings = place.0.join("other.toml");
        fs_err::write(&settings, "pool_size = 2\n")?;
        let config = settings.to_str().context("a path")?;
        // The variable of the other servers here would win over the file.
        let run = on_its_own(place.0)?
            .env("TOMBOLO_POOL_SIZE", "2")
            .args(["--config", config, "run", "--", "echo", "ran"]);
        let differs = run.output().await?;
        ensure!(differs.status.code() == Some(78), "{differs:?}");
        for word in words.into_iter().chain(["pool_size"]) {
            let said = differs.stderr_tail();
            ensure!(said.contains(word), "{word}: {said}");
        }
        ensure!(place.running()? == there);
        let exec = ["sandbox", "exec", &sandbox, "--", "echo", "lives"];
        says(&place.tombolo(&exec).await?, "lives")?;

        place.tombolo(&["sandbox", "kill", "--all"]).await?;
        says(&run.output().await?, "ran")?;
        let after = place.running()?;
        ensure!(
            after.pid != there.pid && after.settings.pool_size == 2,
            "{after:?}"
        );
        gone(there.pid).await
    })
    .await;
}

/// Whichever of the two is first, the command runs, and the server comes up or says why
/// not.
#[tokio::test]
async fn a_command_is_run_whoever_takes_the_place_meanwhile() {
    on_a_place(async |place| {
        for round in 0..ROUNDS {
            place.run().await?;
            let up = async { came(&mut place.up()?).await };
            let (ran, came) = if round % 2 == 0 {
                let (came, ran) = tokio::join!(up, place.run());
                (ran, came)
            } else {
                tokio::join!(place.run(), up)
            };
            ran.with_context(|| format!("round {round}, and {came:?}"))?;
            match came? {
                Came::Up => place.end().await?,
                refusal @ Came::Refused(..) => refused(&refusal, &["has sandboxes: sbx_"])?,
            }
        }
        Ok(())
    })
    .await;
}
