//! The `tombolo` command: the one executable of the host. It starts what a
//! person asks for, and it is also every process that runs on the host: the
//! supervisor (`up`), the server, the node and the egress proxy.

mod attach;
mod bench;
mod children;
mod cli;
mod commands;
mod config;
mod context;
mod environment;
mod failure;
mod ingress;
mod local;
mod network;
mod output;
mod privileges;
mod provision;
mod state;
mod terminal;
mod up;
mod wire;

use std::alloc::System;
use std::process::ExitCode;

use tombolo_diag::{LogFormat, init_logging};
use zeroizing_alloc::ZeroAlloc;

use crate::cli::{Cli, Command};
use crate::config::keys;
use crate::environment::Environment;
use crate::failure::{Failure, Outcome};

/// Memory that is given back is wiped. What clients send is in buffers of
/// libraries too, in forms that nobody else knows to be secret.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let environment = Environment::read();
    let done = start_log(&cli, &environment).and_then(|()| commands::dispatch(cli, environment));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output::tell(&failure.report());
            failure.exit_code().into()
        }
    }
}

/// Help is a success and goes to standard output; a mistake is neither.
fn explain(error: &clap::Error) -> ExitCode {
    // If the terminal is gone there is nobody left to tell.
    if let Err(unwritten) = error.print() {
        tracing::debug!(%unwritten, "the explanation could not be written");
    }
    if error.use_stderr() {
        tombolo_diag::ExitCode::Usage.into()
    } else {
        tombolo_diag::ExitCode::Ok.into()
    }
}

fn start_log(cli: &Cli, environment: &Environment) -> Outcome {
    let default = match cli.command {
        Command::Up(_) | Command::Server | Command::Node | Command::EgressProxy => "info",
        _ => "warn",
    };
    let filter = cli
        .global
        .log
        .as_deref()
        .or_else(|| environment.get(keys::LOG_VARIABLE))
        .unwrap_or(default);
    let format = match environment.get(keys::LOG_FORMAT_VARIABLE) {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(other) => {
            return Err(Failure::message(
                tombolo_diag::ExitCode::Usage,
                format!("{} cannot be \"{other}\"", keys::LOG_FORMAT_VARIABLE),
            )
            .hint("it takes \"text\" or \"json\""));
        }
    };
    init_logging(filter, format).map_err(|error| {
        Failure::new(tombolo_diag::ExitCode::Usage, error)
            .hint("write it as \"info\" or \"warn,tombolo_server=debug\"")
    })
}
