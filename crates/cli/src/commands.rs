//! What each command does. A command gets its arguments and its context,
//! prints through `output`, and answers an exit code.

mod code;
mod completions;
mod copy;
mod docs;
mod doctor;
mod egress;
mod expose;
mod ingress;
mod run;
mod sandbox;
mod setup;
mod shell;
mod ssh;
mod token;
mod watch;

use std::future::Future;

use crate::cli::{Cli, Command, IngressCommand};
use crate::context::Context;
use crate::environment::Environment;
use crate::failure::Outcome;
use crate::{bench, children, up};

/// The exit code of a success.
pub(crate) const OK: u8 = 0;

/// Does what was asked.
pub(crate) fn dispatch(cli: Cli, environment: Environment) -> Outcome<u8> {
    let context = Context::new(&cli.global, environment)?;
    match cli.command {
        Command::Run(args) => run::run(&context, &args),
        Command::Up(args) => up::up(&context, &args).map(|()| OK),
        Command::Doctor(args) => doctor::doctor(&context, &args),
        Command::Setup(args) => setup::setup(&context, &args).map(|()| OK),
        Command::Sandbox(command) => block_on(sandbox::sandbox(&context, command)),
        Command::Egress(command) => block_on(egress::egress(&context, command)),
        Command::Ingress(IngressCommand::Root(args)) => ingress::root(&context, &args).map(|()| OK),
        Command::SshKey(command) => block_on(ssh::keys(&context, command)).map(|()| OK),
        Command::Token(command) => block_on(token::token(&context, command)).map(|()| OK),
        Command::Bench(args) => bench::bench(&context, &args).map(|()| OK),
        Command::Completions(args) => completions::completions(&args).map(|()| OK),
        Command::Docs(args) => docs::docs(&args).map(|()| OK),
        Command::Server => children::server(),
        Command::EgressProxy => children::egress().map(|()| OK),
        Command::Node => children::node().map(|()| OK),
    }
}

/// Runs a command on a runtime of its own. A thread that still waits for a
/// key at the end is left behind rather than waited for.
pub(crate) fn block_on<T>(command: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(command);
    runtime.shutdown_background();
    outcome
}
