//! The command line: what can be typed, and the words that explain it. Only
//! clap lives here; what a command does is in `commands`.
#![expect(
    clippy::doc_markdown,
    reason = "these comments are help texts, read on a terminal"
)]

mod egress;
mod ingress;
mod network;
mod run;
mod sandbox;
mod server;
mod ssh_key;
mod token;

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub(crate) use egress::{
    EgressCommand, ExplainArgs, ListSecretsArgs, NewPolicy, PolicyCommand, PutSecretArgs,
    RevokeSecretArgs, SecretCommand, SetPolicyArgs, TailArgs, TopArgs,
};
pub(crate) use ingress::{IngressCommand, RootArgs};
pub(crate) use network::NetworkArgs;
pub(crate) use run::RunArgs;
pub(crate) use sandbox::{
    CodeArgs, CopyArgs, CreateArgs, ExecArgs, ExposeArgs, ExposuresArgs, ExtendArgs, KillArgs,
    ListArgs, PsArgs, SandboxCommand, ShellArgs, SshArgs, UnexposeArgs, WatchArgs,
};
pub(crate) use server::{SettingArgs, UpArgs};
pub(crate) use ssh_key::{AddSshKeyArgs, ListSshKeysArgs, RemoveSshKeyArgs, SshKeyCommand};
pub(crate) use token::{CreateTokenArgs, TokenCommand};

/// The width of help texts and of the pages made from them.
pub(crate) const HELP_WIDTH: usize = 100;

/// Run untrusted code in Linux microVMs on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "tombolo",
    version,
    max_term_width = HELP_WIDTH,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  tombolo run -- python3 -c 'print(\"hello from a microVM\")'
  tombolo up
  tombolo doctor"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct GlobalArgs {
    /// Where Tombolo keeps everything [env: TOMBOLO_STATE_DIR] [default: /var/lib/tombolo]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub(crate) state_dir: Option<PathBuf>,
    /// The configuration file [env: TOMBOLO_CONFIG] [default: config.toml in the state directory]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Write log lines such as "info,tombolo_server=debug" [env: TOMBOLO_LOG]
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        help_heading = "Global options"
    )]
    pub(crate) log: Option<String>,
}

/// Which server to talk to.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    /// The server, such as <http://127.0.0.1:8590>, opened by TOMBOLO_TOKEN [env:
    /// TOMBOLO_ENDPOINT] [default: the one that runs on the state directory]
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(RunArgs),
    Up(UpArgs),
    Doctor(DoctorArgs),
    Setup(SetupArgs),
    #[command(subcommand)]
    Sandbox(SandboxCommand),
    #[command(subcommand)]
    Egress(EgressCommand),
    #[command(subcommand)]
    Ingress(IngressCommand),
    #[command(subcommand)]
    SshKey(SshKeyCommand),
    #[command(subcommand)]
    Token(TokenCommand),
    Bench(BenchArgs),
    Completions(CompletionsArgs),
    /// The public server; started by "tombolo up"
    #[command(hide = true)]
    Server,
    /// The owner of the virtual machines; started by "tombolo up"
    #[command(hide = true)]
    Node,
    /// The carrier of what sandboxes send out; started by "tombolo up"
    #[command(hide = true)]
    EgressProxy,
    /// Print a reference page
    #[command(hide = true)]
    Docs(DocsArgs),
}

/// Say what this machine can do, and how to mend what it cannot
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tombolo doctor
  tombolo doctor --json

Exits with 1 if something that is needed is missing.")]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Get everything that sandboxes need; "run" and "up" do this by themselves
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tombolo setup
  tombolo setup --with-vscode
  tombolo setup --state-dir /srv/tombolo --json")]
pub(crate) struct SetupArgs {
    /// Give sandboxes VS Code too; they keep it until the state directory is removed
    #[arg(long)]
    pub(crate) with_vscode: bool,
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
    /// Print where everything is, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Measure this machine: create, exec, files, many at once, memory
#[derive(Debug, Args)]
#[command(after_help = "\
Starts a server of its own with and without a pool, so no other may run on the state directory.
The same machine booted cold is measured beside it; every figure is also a ratio of that.

Examples:
  tombolo bench
  tombolo bench --runs 50 --json > bench.json")]
pub(crate) struct BenchArgs {
    /// How often to repeat what is quick
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
}

/// Print what makes a shell complete this command
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tombolo completions bash > /etc/bash_completion.d/tombolo
  tombolo completions zsh > \"${fpath[1]}/_tombolo\"
  tombolo completions fish > ~/.config/fish/completions/tombolo.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct DocsArgs {
    /// Which page
    #[arg(value_enum)]
    pub(crate) page: DocsPage,
}

/// The pages that are made from the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DocsPage {
    Cli,
    Configuration,
    Openapi,
}

/// The command line as data, for help, completions and the reference page.
pub(crate) fn definition() -> clap::Command {
    reflowed(Cli::command())
}

impl Cli {
    /// Reads what was typed.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        let mut definition = definition();
        let mut matches = definition.try_get_matches_from_mut(std::env::args_os())?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut definition))
    }
}

/// With closing words that are wrapped at the terminal's width, not at the source's too.
fn reflowed(command: clap::Command) -> clap::Command {
    let words = command
        .get_after_help()
        .map(|words| joined(&words.to_string()));
    let command = command.mut_subcommands(reflowed);
    match words {
        Some(words) => command.after_help(words),
        None => command,
    }
}

/// The lines of each paragraph as one. What is indented stays as it is.
fn joined(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    let mut goes_on = false;
    for line in text.lines() {
        let is_prose = !line.is_empty() && !line.starts_with(' ');
        if !joined.is_empty() {
            joined.push(if goes_on && is_prose { ' ' } else { '\n' });
        }
        joined.push_str(line);
        goes_on = is_prose;
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn paragraphs_are_one_line_and_examples_stay() {
        let text = "One\ntwo.\n\nThree.\n\nExamples:\n  a \\\n    b\n  c";
        let expected = "One two.\n\nThree.\n\nExamples:\n  a \\\n    b\n  c";
        assert_eq!(joined(text), expected);
        assert_eq!(joined(""), "");
    }

    /// Of the usual terminal.
    #[test]
    fn examples_fit_on_eighty_columns() {
        fn check(command: &clap::Command) {
            let words = command.get_after_help().map(ToString::to_string);
            for line in words.unwrap_or_default().lines() {
                let fits = !line.starts_with(' ') || line.chars().count() <= 80;
                assert!(fits, "{}: {line}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&definition());
    }
}
