//! What every command is given: where the state is, what was set.

use std::path::PathBuf;

use tombolo_diag::ExitCode;

use crate::cli::GlobalArgs;
use crate::config::{self, ConfigFile, Flags, Machine, Settings, keys};
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::state::StateDir;

/// The surroundings of one command.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) state: StateDir,
    pub(crate) environment: Environment,
    /// As given by the person, if it was.
    pub(crate) config_file: Option<PathBuf>,
    /// Which log lines this process and its children write, if that was said.
    pub(crate) log: Option<String>,
}

impl Context {
    pub(crate) fn new(args: &GlobalArgs, environment: Environment) -> Outcome<Self> {
        let given = args.state_dir.as_deref();
        let root = match given.or(environment.get(keys::STATE_DIR_VARIABLE).map(AsRef::as_ref)) {
            Some(root) => std::path::absolute(root)?,
            None => PathBuf::from(keys::STATE_DIR_DEFAULT),
        };
        let config_file = args
            .config
            .clone()
            .or_else(|| environment.get(keys::CONFIG_VARIABLE).map(PathBuf::from));
        let log = args
            .log
            .clone()
            .or_else(|| environment.get(keys::LOG_VARIABLE).map(str::to_owned));
        Ok(Self {
            state: StateDir::new(root),
            environment,
            config_file,
            log,
        })
    }

    /// The settings, with these flags before everything else.
    pub(crate) fn settings(&self, flags: &Flags) -> Outcome<Settings> {
        for name in config::unknown_variables(&self.environment) {
            output::tell(&format!(
                "warning: the variable {name} means nothing to Tombolo"
            ));
        }
        let usual = self.state.config_file();
        let file = match &self.config_file {
            Some(named) => ConfigFile::Named(named),
            None => ConfigFile::Usual(&usual),
        };
        let machine = Machine {
            memory_mib: memory_mib(),
        };
        Settings::resolve(flags, &self.environment, file, machine).map_err(|error| {
            let hint = error.hint();
            let code = if flags.is_empty() {
                ExitCode::Config
            } else {
                ExitCode::Usage
            };
            Failure::new(code, error).hint(hint)
        })
    }
}

/// Virtual machines need root; says how to get it otherwise.
pub(crate) fn require_root(what: &str) -> Outcome {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let program = std::env::current_exe()
        .map_or_else(|_| "tombolo".to_owned(), |path| path.display().to_string());
    Err(Failure::message(
        ExitCode::NoPermission,
        format!("{what} needs root: it starts virtual machines and confines them"),
    )
    .hint(format!(
        "run it as root: sudo {program} …; or use a server that runs elsewhere, by {} and {}",
        keys::ENDPOINT_VARIABLE,
        keys::TOKEN_VARIABLE
    )))
}

fn memory_mib() -> u64 {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    info.totalram.saturating_mul(unit) >> 20
}
