//! The arguments of `tombolo run`.

use std::time::Duration;

use clap::Args;

use super::{NetworkArgs, ServerArgs};

/// Run a command in a new sandbox and throw the sandbox away
#[derive(Debug, Args)]
#[command(after_help = "\
Input, output and errors are the command's own, and so is the exit code. With a terminal at both
ends the command gets one too. Starts a server in the background when none runs; it ends by itself
when it has had nothing to do for a minute, and makes room for \"tombolo up\" before that.

The command has no network unless you name the hosts that it may reach. A host that it may not reach
answers HTTP and HTTPS with 403 and the reason, and anything else with a closed connection. A secret
is used by its placeholder: requests to its hosts carry the value, answers are searched for it.

Examples:
  tombolo run -- python3 -c 'print(1 + 1)'
  tombolo run bash
  tombolo run --allow-net '*.example.com' -- curl -s https://www.example.com/
  tombolo run --allow-net api.example.com --secret API_KEY@api.example.com -- \\
      sh -c 'curl -H \"authorization: Bearer $API_KEY\" https://api.example.com/'
  tombolo run --memory 2048 --timeout 5m -- ./analyse < data.csv > out.csv

Exit codes: those of the command; 124 when --timeout passed; 1 and 64 to 78 for Tombolo's own
errors, which it explains on standard error.")]
pub(crate) struct RunArgs {
    /// Memory in MiB [default: what the server gives]
    #[arg(short, long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) memory: Option<u32>,
    /// End the sandbox after this long, such as 30s, 5m or 2h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Set a variable, or pass on one of your own; may be repeated
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// The directory to start in [default: /home/app]
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Insist on what runs the virtual machine: auto, kvm or emulated
    #[arg(long, value_name = "HOW")]
    pub(crate) isolation: Option<String>,
    /// Give the command a terminal
    #[arg(short = 't', long, overrides_with = "no_tty")]
    pub(crate) tty: bool,
    /// Give the command pipes even if you sit at a terminal
    #[arg(short = 'T', long, overrides_with = "tty")]
    pub(crate) no_tty: bool,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<String>,
}
