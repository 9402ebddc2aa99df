//! Shells in real sandboxes, on a terminal as a person has one.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Child;
use tombolo_e2e::{World, with_world};
use tombolo_proc::Command;
use tombolo_testkit::within;

const LIMIT: Duration = Duration::from_mins(3);
const LEAVE: &[u8] = b"\x10\x11";

/// A person at a terminal on which a command runs.
struct Person {
    terminal: OwnedFd,
    keys: File,
    screen: File,
    seen: String,
    command: Child,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Person {
    /// Sits down before a terminal of 30 lines and 100 characters.
    fn start(world: &World, args: &[&str]) -> anyhow::Result<Self> {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&terminal)?;
        unlockpt(&terminal)?;
        tcsetwinsize(&terminal, size(30, 100))?;
        let name = ptsname(&terminal, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let end = || rustix::fs::open(&name, flags, Mode::empty()).map(Stdio::from);
        // In a session of its own, of which this is the terminal.
        let command = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .arg(world.binary())
            .args(args)
            .env("TOMBOLO_STATE_DIR", world.state())
            .env("TERM", "xterm");
        let command = command.spawn(end()?, end()?, end()?)?;
        let half = || anyhow::Ok(File::from_std(std::fs::File::from(terminal.try_clone()?)));
        Ok(Self {
            keys: half()?,
            screen: half()?,
            terminal,
            seen: String::new(),
            command,
        })
    }

    async fn types(&mut self, keys: &[u8]) -> anyhow::Result<()> {
        self.keys.write_all(keys).await?;
        Ok(self.keys.flush().await?)
    }

    /// Reads until this is on the screen, and forgets all up to there.
    async fn sees(&mut self, expected: &str) -> anyhow::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.seen.find(expected) {
                self.seen.drain(..at + expected.len());
                return Ok(());
            }
            let what = format!("{expected:?} after {:?}", self.seen);
            let len = within(&what, self.screen.read(&mut buffer)).await;
            let len = len.with_context(|| what)?;
            let piece = buffer.get(..len).context("too long")?;
            self.seen.push_str(&String::from_utf8_lossy(piece));
        }
    }

    /// Closes the window, in which nothing can be written any more.
    async fn closes(self) -> anyhow::Result<()> {
        let Self {
            terminal,
            keys,
            screen,
            mut command,
            ..
        } = self;
        // What is still under way on a thread would keep it open.
        drop((terminal, keys.into_std().await, screen.into_std().await));
        let ended = within("the end", command.wait()).await?;
        ensure!(ended.code() == Some(0), "{ended:?}");
        Ok(())
    }

    /// The command itself is told to end, and its window stays.
    async fn receives(self, signal: &str) -> anyhow::Result<()> {
        let pid = self.command.id().context("it has ended")?.to_string();
        Command::new("kill")
            .args(["-s", signal, &pid])
            .run()
            .await?;
        self.ends(0).await
    }

    async fn ends(mut self, code: i32) -> anyhow::Result<()> {
        let ended = within("the end", self.command.wait()).await?;
        ensure!(ended.code() == Some(code), "{ended:?}: {}", self.seen);
        Ok(())
    }
}

/// The processes of a sandbox that run on a terminal.
async fn terminals(world: &World, id: &str) -> anyhow::Result<Vec<i64>> {
    let listed = world.tombolo(["sandbox", "ps", id, "--json"]).run().await?;
    let listed: Vec<Value> = serde_json::from_str(&listed.stdout_text())?;
    let on_terminal = listed.iter().filter(|row| {
        let has_terminal = row.get("terminal").and_then(Value::as_bool);
        has_terminal == Some(true)
    });
    let pids = on_terminal.filter_map(|row| row.get("pid").and_then(Value::as_i64));
    Ok(pids.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_is_left_and_come_back_to() {
    with_world(LIMIT, shell).await;
}

async fn shell(world: Arc<World>) -> anyhow::Result<()> {
    let id = world.create().await?;
    let mut person = Person::start(&world, &["sandbox", "shell", &id])?;
    person.sees("Ctrl-P Ctrl-Q leaves").await?;
    person.sees("$ ").await?;
    person.types(b"X=kept; stty size\r").await?;
    person.sees("30 100").await?;
    // The size follows; when, is not known.
    tcsetwinsize(&person.terminal, size(50, 132))?;
    let wait = b"until [ \"$(stty size)\" = '50 132' ]; do sleep 0.05; done; echo re-sized\\!\r";
    person.types(wait).await?;
    person.sees("re-sized!").await?;
    person.types(LEAVE).await?;
    person.sees("it runs on").await?;
    person.ends(0).await?;
    let pids = terminals(&world, &id).await?;
    let [pid] = pids.as_slice() else {
        anyhow::bail!("{pids:?} is not one shell");
    };
    let pid = pid.to_string();
    let attach = ["sandbox", "shell", &id, "--attach", &pid];

    // It shows what was there, and has the size of the new terminal.
    let mut person = Person::start(&world, &attach)?;
    person.sees("re-sized!").await?;
    person.types(b"echo $X-$((40 + 2)); stty size\r").await?;
    person.sees("kept-42").await?;
    person.sees("30 100").await?;
    // Another takes it over.
    let mut other = Person::start(&world, &attach)?;
    other.sees("kept-42").await?;
    person.sees("Another client has taken this over").await?;
    person.ends(1).await?;
    // Whose command is killed leaves it as well.
    other.types(b"echo $X-$((50 + 5))\r").await?;
    other.sees("kept-55").await?;
    other.command.start_kill()?;
    drop(other);
    let mut person = Person::start(&world, &attach)?;
    person.sees("kept-55").await?;
    person.types(b"echo $X-$((60 + 6))\r").await?;
    person.sees("kept-66").await?;
    // And so does one whose window is closed, of which its command is told twice: by
    // SIGHUP and by an input that ended.
    person.closes().await?;
    let mut person = Person::start(&world, &attach)?;
    person.sees("kept-66").await?;
    person.receives("HUP").await?;
    let mut person = Person::start(&world, &attach)?;
    person.sees("kept-66").await?;
    person.types(b"exit 5\r").await?;
    person.ends(5).await?;
    let ended = async {
        while !terminals(&world, &id).await?.is_empty() {}
        anyhow::Ok(())
    };
    within("the end of the shell", ended).await?;
    let gone = world.tombolo(["sandbox", "ps", &id, "--all"]).run().await?;
    ensure!(gone.stdout_text().contains("ended"), "{gone:?}");
    world.kill(&id).await
}
