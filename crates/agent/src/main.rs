//! The guest agent: PID 1 of every sandbox. It brings the guest up and serves
//! what the host asks of it over one serial port.
//!
//! With `--listen PATH` it serves the same over a unix socket instead, as an
//! ordinary process, and leaves the machine alone.

mod agent;
mod boot;
mod channel;
mod connect;
mod deno;
mod environment;
mod fault;
mod files;
mod glob;
mod jspath;
mod log;
mod network;
mod pattern;
mod process;
mod serve;
mod service;
mod system;
mod trust;
mod users;
mod walk;
mod watch;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::process::{getpid, set_child_subreaper};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tombolo_guest_proto::channel::PORT_NAME;
use tombolo_sys::guest::identity::{Identity, assume_for_files};
use tombolo_sys::guest::spawn::withhold_inheritance;
use tombolo_sys::guest::wakeup;

use agent::Agent;
use boot::{BootError, OPEN_FILES_MAX};
use channel::Port;
use connect::Connections;
use deno::Deno;
use environment::Environment;
use files::{Files, Handles};
use log::log;
use process::{KernelKills, Processes, Spawner, reap_forever};
use service::AgentService;
use users::FindAccountError;
use walk::Turns;
use watch::Watches;

const USER: &str = "app";
const HOME: &str = "/home/app";
const USAGE: &str = "tombolo-agent --listen PATH [--user NAME] [--home DIRECTORY]";
/// Threads for file operations, each of which may block.
const BLOCKING_THREADS_MAX: usize = 512;
const BLOCKING_THREAD_IDLE: Duration = Duration::from_mins(1);
/// Between attempts on a port that fails without a reason of the host's.
const PORT_RETRY: Duration = Duration::from_millis(20);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("{option} needs a value; usage: {USAGE}")]
    MissingValue { option: String },
    #[error("unknown option {option}; usage: {USAGE}")]
    UnknownOption { option: String },
    #[error("not PID 1 and nowhere to listen; usage: {USAGE}")]
    NowhereToListen,
    #[error("cannot bring up the guest")]
    Boot(#[from] BootError),
    #[error("cannot tell whom to run programs as")]
    Account(#[from] FindAccountError),
    #[error("cannot {what}")]
    Start {
        what: &'static str,
        #[source]
        error: std::io::Error,
    },
}

fn cannot(what: &'static str) -> impl FnOnce(std::io::Error) -> RunError {
    move |error| RunError::Start { what, error }
}

/// Where the host is, and whose the sandbox is.
#[derive(Debug)]
struct Options {
    /// Absent in a guest.
    listen: Option<PathBuf>,
    user: String,
    home: String,
}

impl Options {
    fn of_guest() -> Self {
        Self {
            listen: None,
            user: USER.to_owned(),
            home: HOME.to_owned(),
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut causes = String::new();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                causes = format!("{causes}: {cause}");
                source = cause.source();
            }
            log!("{error}{causes}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), RunError> {
    let in_guest = getpid().is_init();
    let options = if in_guest {
        // The kernel hands over whatever it did not understand itself.
        Options::of_guest()
    } else {
        parse_arguments(std::env::args().skip(1))?
    };
    if in_guest {
        boot::boot()?;
    } else {
        set_child_subreaper(Some(getpid()))
            .map_err(|errno| cannot("adopt orphans")(errno.into()))?;
    }
    withhold_inheritance().map_err(cannot("keep what it was given"))?;
    wakeup::install().map_err(cannot("install a signal handler"))?;
    let account = users::find(&options.user)?;
    let spawner = Spawner::new(account.identity.clone(), &options.home)
        .map_err(cannot("open the null device"))?;
    let spawner = if in_guest {
        spawner.in_guest(cgroup(), OPEN_FILES_MAX)
    } else {
        spawner
    };
    // Beside the socket, a test finds what is its own.
    let scripts = match &options.listen {
        Some(socket) => socket.with_extension("deno"),
        None => deno::DIRECTORY.into(),
    };
    let kills = KernelKills::watching().unwrap_or_default();
    let runtime = runtime(account.identity.clone())?;
    let agent = Arc::new(Agent {
        environment: Environment::new(&account, &options.home),
        processes: Processes::watching(kills),
        spawner,
        files: Files::new(options.home.into()),
        handles: Handles::default(),
        turns: Turns::default(),
        watches: Watches::default(),
        connections: Connections::new(account.identity.clone()),
        deno: Deno::prepare(scripts),
        personalized: AtomicBool::new(false),
        owns_system: in_guest,
        java_store: in_guest.then(trust::prepare_java).flatten(),
    });
    let served = runtime.block_on(serve(Arc::clone(&agent), options.listen));
    agent.processes.kill_all();
    // A file operation may block for ever.
    runtime.shutdown_background();
    served
}

fn cgroup() -> Option<OwnedFd> {
    match boot::app_cgroup() {
        Ok(cgroup) => Some(cgroup),
        Err(error) => {
            log!("programs run without a control group: {error}");
            None
        }
    }
}

/// One thread for everything but file operations: the guest has few CPUs, and
/// a hand-over between threads costs more than most calls.
fn runtime(identity: Identity) -> Result<Runtime, RunError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(BLOCKING_THREAD_IDLE)
        .thread_name("files")
        .on_thread_start(move || {
            if let Err(error) = assume_for_files(&identity) {
                log!("a thread cannot become the sandbox's user: {error}");
                std::process::abort();
            }
        })
        .build()
        .map_err(cannot("start the runtime"))
}

async fn serve(agent: Arc<Agent>, listen: Option<PathBuf>) -> Result<(), RunError> {
    let children = signal(SignalKind::child()).map_err(cannot("listen for signals"))?;
    let service = AgentService::new(Arc::clone(&agent));
    let serve = async {
        match listen {
            Some(path) => serve_socket(path, service).await,
            None => serve_port(service).await,
        }
    };
    let follow = async {
        if let Err(error) = agent.processes.kills.follow().await {
            log!("cannot follow the kernel's log: {error}");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = serve => served,
        () = reap_forever(&agent.processes, children) => Ok(()),
        () = follow => Ok(()),
    }
}

async fn serve_port(service: AgentService) -> Result<(), RunError> {
    let port = Port::new(boot::open_port(PORT_NAME)?);
    loop {
        let accepted = port.accept(|introduction| service.introduce(introduction));
        let served = match accepted.await {
            Ok(stream) => serve::serve_connection(stream, service.clone())
                .await
                .map(|()| port.forget_rescued())
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = served {
            log!("the host went away: {error}");
            tokio::time::sleep(PORT_RETRY).await;
        }
    }
}

async fn serve_socket(path: PathBuf, service: AgentService) -> Result<(), RunError> {
    let listener = UnixListener::bind(&path).map_err(cannot("listen"))?;
    let mut stop = signal(SignalKind::terminate()).map_err(cannot("listen for signals"))?;
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.map_err(cannot("accept"))?,
            _ = stop.recv() => return Ok(()),
        };
        let service = service.clone();
        tokio::spawn(async move {
            if let Err(error) = serve::serve_connection(stream, service).await {
                log!("a connection failed: {error}");
            }
        });
    }
}

fn parse_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Options, RunError> {
    let mut options = Options::of_guest();
    while let Some(option) = arguments.next() {
        let Some(value) = arguments.next() else {
            return Err(RunError::MissingValue { option });
        };
        match option.as_str() {
            "--listen" => options.listen = Some(PathBuf::from(value)),
            "--user" => options.user = value,
            "--home" => options.home = value,
            _ => return Err(RunError::UnknownOption { option }),
        }
    }
    if options.listen.is_none() {
        return Err(RunError::NowhereToListen);
    }
    Ok(options)
}
