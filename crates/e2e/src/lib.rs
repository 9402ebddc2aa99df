//! What the tests of whole machines share: a server of their own, started as
//! a person starts it, on what set-up made once for all of them.

mod footprint;
pub mod host;
mod load;
pub mod packages;
pub mod upstream;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::time::timeout;
use tombolo_leftovers::RunDirectory;
use tombolo_proc::{Command, Output};

pub use footprint::Footprint;
pub use load::{ANSWER_MAX, Answers, Load};

/// Where the tests find what set-up made.
const STATE_VARIABLE: &str = "TOMBOLO_STATE_DIR";
/// Where they find the program under test.
const BINARY_VARIABLE: &str = "TOMBOLO_TEST_BINARY";
/// What the state directories of single tests begin with.
const RUN_PREFIX: &str = "e2e-";
/// Starting, and booting a template first if there is none yet.
const START_MAX: Duration = Duration::from_mins(4);
/// Ending the sandboxes and the children.
const STOP_MAX: Duration = Duration::from_mins(1);
/// One command; one that takes longer hangs.
const COMMAND_MAX: Duration = Duration::from_mins(2);

/// The machines that wait for the next sandbox, unless a test wants others.
const POOL_SIZE: usize = 4;

/// A running server with a state directory of its own.
#[derive(Debug)]
pub struct World {
    directory: RunDirectory,
    /// The same directory, as this process sees what is in it.
    state: PathBuf,
    binary: PathBuf,
    announcement: Announcement,
    options: Options,
    /// Of the supervisor.
    pid: i32,
}

/// What may differ between the servers of two tests.
#[derive(Debug, Clone)]
pub struct Options {
    /// Machines that wait for the next sandbox.
    pub pool_size: usize,
    /// Flags of `tombolo up`.
    pub flags: Vec<String>,
    /// A process whose network and mounts the server has too, instead of
    /// those of the test.
    pub beside: Option<u32>,
    /// Variables of its environment besides those of the test.
    pub env: Vec<(String, String)>,
    /// Where it logs to, if not to where the test does.
    pub log: Option<PathBuf>,
    /// The size in MiB of a file system for the state directory alone; it is
    /// in memory and ends with the last process that uses it.
    pub room_mib: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pool_size: POOL_SIZE,
            flags: Vec::new(),
            beside: None,
            env: Vec::new(),
            log: None,
            room_mib: None,
        }
    }
}

/// What `tombolo up --json` says when it is ready.
#[derive(Debug, Deserialize)]
struct Announcement {
    url: String,
    token: String,
}

/// Runs `body` in a world of its own, and takes the world down in order
/// whatever comes of it.
///
/// # Panics
/// When the body does, when it takes longer than `limit`, or when the server
/// does not start or end as it should.
pub async fn with_world<Body>(limit: Duration, body: impl FnOnce(Arc<World>) -> Body)
where
    Body: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    with_world_of(Options::default(), limit, body).await;
}

/// The same with a server that differs from the usual one.
///
/// # Panics
/// As [`with_world`].
#[expect(clippy::expect_used, clippy::panic, reason = "the way a test fails")]
pub async fn with_world_of<Body>(
    options: Options,
    limit: Duration,
    body: impl FnOnce(Arc<World>) -> Body,
) where
    Body: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let (world, mut up) = World::start(options).await.expect("the server starts");
    let world = Arc::new(world);
    let outcome = tokio::spawn(timeout(limit, body(Arc::clone(&world)))).await;
    let stopped = stop(&mut up).await;
    match outcome {
        Ok(Ok(Ok(()))) => stopped.expect("the server ends in order"),
        Ok(Ok(Err(error))) => panic!("{error:?}"),
        Ok(Err(elapsed)) => panic!("the test took too long: {elapsed}"),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

impl World {
    async fn start(options: Options) -> anyhow::Result<(Self, Child)> {
        let shared = PathBuf::from(variable(STATE_VARIABLE)?);
        let binary = PathBuf::from(variable(BINARY_VARIABLE)?);
        let directory = borrow(&shared).await?;
        let log = match &options.log {
            None => Stdio::inherit(),
            Some(path) => fs_err::File::create(path)?.into_parts().0.into(),
        };
        let mut up = options
            .starter(&binary, directory.path())
            .inherit_env()
            .args(["up", "--json", "--listen", "127.0.0.1:0"])
            .args(["--ingress-listen", "127.0.0.1:0"])
            .args(["--ssh-listen", "127.0.0.1:0", "--state-dir"])
            .arg(directory.path())
            .args(["--pool-size", &options.pool_size.to_string()])
            .args(&options.flags)
            .envs(options.env.clone())
            .spawn(Stdio::null(), Stdio::piped(), log)?;
        let output = up.stdout.take().context("standard output is piped")?;
        let mut line = String::new();
        let mut reader = BufReader::new(output);
        timeout(START_MAX, reader.read_line(&mut line))
            .await
            .context("the server is not ready in time")??;
        let announcement = serde_json::from_str(&line).context("the server did not start")?;
        let pid = up.id().context("the server ended by itself")?.cast_signed();
        let below_root = directory.path().strip_prefix("/")?;
        let state = match options.room_mib {
            None => directory.path().to_owned(),
            Some(_) => Path::new(&format!("/proc/{pid}/root")).join(below_root),
        };
        let world = Self {
            directory,
            state,
            binary,
            announcement,
            options,
            pid,
        };
        Ok((world, up))
    }

    /// The process that the test started: `tombolo up`.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What the paths of this server, and of no other, contain.
    pub fn name(&self) -> &str {
        let name = self.directory.path().file_name().unwrap_or_default();
        name.to_str().unwrap_or_default()
    }

    /// How many machines wait for the next sandbox.
    pub fn pool_size(&self) -> usize {
        self.options.pool_size
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        &self.announcement.url
    }

    /// A token for it.
    pub fn token(&self) -> &str {
        &self.announcement.token
    }

    /// The program under test.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The state directory of this server alone, as the test can look into it.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The three variables that point the SDKs here.
    pub fn sdk_environment(&self) -> [(&'static str, &str); 3] {
        [
            ("DENO_DEPLOY_TOKEN", &self.announcement.token),
            ("DENO_SANDBOX_ENDPOINT", &self.announcement.url),
            ("DENO_DEPLOY_ENDPOINT", &self.announcement.url),
        ]
    }

    /// What clients of exposed ports have to trust.
    pub fn ingress_root(&self) -> PathBuf {
        self.state.join("ingress/tombolo.localhost/authority.pem")
    }

    /// A command of the program under test, on this server.
    pub fn tombolo<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let options = &self.options;
        let command = if options.room_mib.is_some() || options.beside.is_some() {
            enter(self.pid.unsigned_abs(), &self.binary)
        } else {
            Command::new(&self.binary)
        };
        command
            .env(STATE_VARIABLE, self.directory.path())
            .args(args)
            .deadline(COMMAND_MAX)
    }

    /// Creates a sandbox that lives for ten minutes.
    pub async fn create(&self) -> anyhow::Result<String> {
        let create = self.tombolo(["sandbox", "create", "--timeout", "10m"]);
        Ok(create.run().await?.stdout_text().trim().to_owned())
    }

    /// Ends a sandbox.
    pub async fn kill(&self, sandbox: &str) -> anyhow::Result<()> {
        self.tombolo(["sandbox", "kill", sandbox]).run().await?;
        Ok(())
    }

    /// Ends every sandbox there is.
    pub async fn kill_all(&self) -> anyhow::Result<()> {
        for (id, state) in self.list().await? {
            if state != "stopped" {
                self.kill(&id).await?;
            }
        }
        Ok(())
    }

    /// All sandboxes, those that have ended too, each with its state.
    pub async fn list(&self) -> anyhow::Result<BTreeMap<String, String>> {
        #[derive(Deserialize)]
        struct Row {
            id: String,
            state: String,
        }
        let rows = self.tombolo(["sandbox", "list", "--json"]).run().await?;
        let rows: Vec<Row> = serde_json::from_str(&rows.stdout_text())?;
        Ok(rows.into_iter().map(|row| (row.id, row.state)).collect())
    }

    /// Runs a shell command in a sandbox, whatever comes of it.
    pub async fn shell(&self, sandbox: &str, script: &str) -> anyhow::Result<Output> {
        let exec = ["sandbox", "exec", sandbox, "--", "bash", "-c", script];
        Ok(self.tombolo(exec).output().await?)
    }

    /// What a shell command that must succeed writes.
    pub async fn shell_text(&self, sandbox: &str, script: &str) -> anyhow::Result<String> {
        let output = self.shell(sandbox, script).await?;
        ensure!(
            output.status.success(),
            "{script}: {}",
            output.stderr_tail()
        );
        Ok(output.stdout_text())
    }
}

impl Options {
    /// The program under test, started where its state directory has the room
    /// it is to have.
    fn starter(&self, binary: &Path, state: &Path) -> Command {
        if let Some(pid) = self.beside {
            return enter(pid, binary);
        }
        let Some(room_mib) = self.room_mib else {
            return Command::new(binary);
        };
        // What was borrowed is shown in the new file system. Its source is
        // named after the directory, so that its mounts can be told apart.
        let script = "set -e; mount -t tmpfs -o mode=755,size=$2m \"${1##*/}\" /mnt; \
                      mkdir /mnt/artefacts; mount --bind \"$1/artefacts\" /mnt/artefacts; \
                      cd \"$1\"; cp --archive templates isolation.json /mnt; cd /; \
                      mount --move /mnt \"$1\"; shift 2; exec \"$@\"";
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--"])
            .args(["bash", "-c", script, "bash"])
            .arg(state)
            .arg(room_mib.to_string())
            .arg(binary)
    }
}

/// A program, started with the network and the mounts of a process.
fn enter(pid: u32, program: &Path) -> Command {
    let [network, mounts] = ["net", "mnt"].map(|kind| format!("/proc/{pid}/ns/{kind}"));
    Command::new("nsenter")
        .arg(format!("--net={network}"))
        .arg(format!("--mount={mounts}"))
        .arg("--")
        .arg(program)
}

fn variable(name: &str) -> anyhow::Result<std::ffi::OsString> {
    std::env::var_os(name).with_context(|| format!("{name} is not set; `cargo xtask test` sets it"))
}

/// The parts of a manifest that name files.
#[derive(Debug, Deserialize)]
struct Manifest {
    engine_root: PathBuf,
    initramfs: PathBuf,
    image: PathBuf,
}

/// A state directory that has the artefacts and templates of another without
/// copying them, and nothing else of it.
async fn borrow(shared: &Path) -> anyhow::Result<RunDirectory> {
    // Inside the other: hard links need the same file system, and it goes
    // away with the other when a run is killed, if not with the next test.
    let state = RunDirectory::below(shared, RUN_PREFIX)?;
    let artefacts = state.path().join("artefacts");
    fs_err::create_dir(&artefacts)?;
    let text = fs_err::read_to_string(shared.join("artefacts/manifest.json"))?;
    let manifest: Manifest = serde_json::from_str(&text)?;
    let image = manifest.image.parent().context("the image has a place")?;
    Command::new("cp")
        .args(["--archive", "--link"])
        .args([&manifest.engine_root, &manifest.initramfs, image])
        .arg(&artefacts)
        .run()
        .await?;
    let (old, new) = (shared.to_string_lossy(), state.path().to_string_lossy());
    fs_err::write(artefacts.join("manifest.json"), text.replace(&*old, &new))?;
    let templates = shared.join("templates");
    fs_err::create_dir_all(&templates)?;
    std::os::unix::fs::symlink(templates, state.path().join("templates"))?;
    let isolation = shared.join("isolation.json");
    if isolation.exists() {
        fs_err::copy(isolation, state.path().join("isolation.json"))?;
    }
    Ok(state)
}

/// A state directory on which set-up has everything to do that comes after the
/// engine and the guest's first file system.
pub async fn half_set_up() -> anyhow::Result<RunDirectory> {
    let state = borrow(Path::new(&variable(STATE_VARIABLE)?)).await?;
    let manifest_path = state.path().join("artefacts/manifest.json");
    let manifest: Manifest = serde_json::from_str(&fs_err::read_to_string(&manifest_path)?)?;
    fs_err::remove_file(manifest_path)?;
    let image_dir = manifest.image.parent().context("the image has a place")?;
    fs_err::remove_dir_all(image_dir)?;
    Ok(state)
}

/// A state directory that has all that set-up makes, and no server.
pub async fn all_set_up() -> anyhow::Result<RunDirectory> {
    borrow(Path::new(&variable(STATE_VARIABLE)?)).await
}

/// The program under test, on a state directory whose server is the test's own to start:
/// with few machines, and where nobody else listens.
pub fn on_its_own(state: &Path) -> anyhow::Result<Command> {
    let command = Command::new(PathBuf::from(variable(BINARY_VARIABLE)?));
    Ok(command
        .inherit_env()
        .env(STATE_VARIABLE, state)
        .env("TOMBOLO_POOL_SIZE", "1")
        .deadline(COMMAND_MAX))
}

/// `tombolo setup` of the program under test, on this state directory.
pub fn set_up(state: &Path) -> anyhow::Result<Command> {
    let command = Command::new(PathBuf::from(variable(BINARY_VARIABLE)?));
    let command = command.inherit_env().arg("--state-dir").arg(state);
    Ok(command.arg("setup"))
}

async fn stop(up: &mut Child) -> anyhow::Result<()> {
    let pid = up.id().context("the server ended by itself")?;
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).context("a process id")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let status = timeout(STOP_MAX, up.wait()).await??;
    ensure!(status.success(), "the server ended with {status}");
    Ok(())
}
