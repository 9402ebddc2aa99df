//! The arguments of `tombolo sandbox`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{NetworkArgs, ServerArgs};

/// Create, use and end sandboxes
#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    Create(CreateArgs),
    List(ListArgs),
    Exec(ExecArgs),
    Shell(ShellArgs),
    Ps(PsArgs),
    Copy(CopyArgs),
    Code(CodeArgs),
    Watch(WatchArgs),
    Ssh(SshArgs),
    Expose(ExposeArgs),
    Exposures(ExposuresArgs),
    Unexpose(UnexposeArgs),
    Extend(ExtendArgs),
    Kill(KillArgs),
}

/// Create a sandbox and print its id
#[derive(Debug, Args)]
#[command(after_help = "\
It has no network unless you name the hosts that it may reach; \"tombolo egress policy set\" changes
them later.

Examples:
  tombolo sandbox create
  tombolo sandbox create --secret API_KEY@api.example.com
  tombolo sandbox create --memory 2048 --timeout 2h --label job=nightly --json")]
pub(crate) struct CreateArgs {
    /// Memory in MiB [default: what the server gives]
    #[arg(short, long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) memory: Option<u32>,
    /// How long it lives unless it is extended
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
    /// A label to find it by; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Set a variable, or pass on one of your own; may be repeated
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// List sandboxes, the newest first, those that have ended too
#[derive(Debug, Args)]
#[command(after_help = "\
On the machine that runs the server, as root, these are every organisation's; elsewhere those of
the token's organisation.

Examples:
  tombolo sandbox list
  tombolo sandbox list --running --label job=nightly --json")]
pub(crate) struct ListArgs {
    /// Only those that have not ended
    #[arg(long)]
    pub(crate) running: bool,
    /// Only those with this label; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// At most so many [default: all]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Run a command in a sandbox that is there
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tombolo sandbox exec $id -- ls -l
  echo 'print(2)' | tombolo sandbox exec $id -- python3 -")]
pub(crate) struct ExecArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Set a variable, or pass on one of your own; may be repeated
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// The directory to start in [default: /home/app]
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Give the command a terminal
    #[arg(short = 't', long, overrides_with = "no_tty")]
    pub(crate) tty: bool,
    /// Give the command pipes even if you sit at a terminal
    #[arg(short = 'T', long, overrides_with = "tty")]
    pub(crate) no_tty: bool,
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

/// Open a shell in a sandbox, or come back to one
#[derive(Debug, Args)]
#[command(after_help = "\
Ctrl-P Ctrl-Q leaves the shell running, and so does a closed window or a lost connection; --attach
comes back to it, and to any other process on a terminal. What it wrote last is shown again.
\"tombolo sandbox ps\" lists processes.

Examples:
  tombolo sandbox shell $id
  tombolo sandbox shell $id --attach 123")]
pub(crate) struct ShellArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// The directory to start in [default: /home/app]
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Come back to this process instead, and take it from whoever has it
    #[arg(long, value_name = "PID", conflicts_with = "cwd", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) attach: Option<i32>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// List the processes of a sandbox that were started from outside
#[derive(Debug, Args)]
#[command(after_help = "\
Those that they started in turn are not among them: \"tombolo sandbox exec ID -- ps aux\" shows all.

Examples:
  tombolo sandbox ps $id
  tombolo sandbox ps $id --all --json")]
pub(crate) struct PsArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Those that have ended, too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Copy files and directories into, out of and between sandboxes
#[derive(Debug, Args)]
#[command(after_help = "\
A place in a sandbox is ID:PATH; a relative PATH starts in /home/app. A directory is copied with
all that is below it. If the destination is a directory that exists, the source is put into it. A
device or a pipe is written to and not replaced.

Examples:
  tombolo sandbox copy ./project $id:
  tombolo sandbox copy $id:out/report.pdf .
  tombolo sandbox copy $id:data $other:data")]
pub(crate) struct CopyArgs {
    /// What to copy: a path, or ID:PATH
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// Where to: a path, ID:PATH, or "-" for one file to standard output
    #[arg(value_name = "DESTINATION")]
    pub(crate) destination: String,
    /// Print what was copied, as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Print what changes among the files of a sandbox, as it does
#[derive(Debug, Args)]
#[command(after_help = "\
Ends when there is nothing at the path any more, or the sandbox ends.

Examples:
  tombolo sandbox watch $id . --recursive
  tombolo sandbox watch $id /var/log/app.log --json")]
pub(crate) struct WatchArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// A file, or a directory and what is in it; a relative path starts in /home/app
    #[arg(value_name = "PATH")]
    pub(crate) path: String,
    /// What is in directories below, too
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Print JSON, one change a line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Log in to a sandbox with this machine's own ssh
#[derive(Debug, Args)]
#[command(after_help = "\
Gets a user name that opens the sandbox as long as it lives, and starts \"ssh\" with it. What follows
the id goes to ssh: its options first, then a command. With --print nothing is started: the user name,
which is a credential, is for scp, rsync, sshfs and editors.

Examples:
  tombolo sandbox ssh $id
  tombolo sandbox ssh $id -- uname -a
  tombolo sandbox ssh $id -- -N -L 8000:localhost:8000
  tombolo sandbox ssh $id --print")]
pub(crate) struct SshArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Print how to get in instead
    #[arg(long)]
    pub(crate) print: bool,
    /// Print JSON, with the gateway's key
    #[arg(long, conflicts_with = "print")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Options of ssh, and the command to run in the sandbox
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub(crate) arguments: Vec<String>,
}

/// Start VS Code in a sandbox and print its address
#[derive(Debug, Args)]
#[command(after_help = "\
Whoever knows the address has the sandbox, unless it is --private. It runs until the sandbox ends or
it is stopped by its button. The machine needs \"tombolo setup --with-vscode\" once. Extensions come
from open-vsx.org, which the sandbox has to be allowed to reach, or from .vsix files in the sandbox.
Where VS Code has the folder open already, no other is started, unless with extensions or a preview.

Examples:
  tombolo sandbox code $id
  tombolo sandbox code $id project --private
  tombolo sandbox code $id --extension denoland.vscode-deno")]
pub(crate) struct CodeArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// The folder to open
    #[arg(value_name = "FOLDER", default_value = "/home/app")]
    pub(crate) folder: String,
    /// An extension's id, or the path of its .vsix file in the sandbox; may be repeated
    #[arg(long, value_name = "EXTENSION")]
    pub(crate) extension: Vec<String>,
    /// A page to show beside the editor
    #[arg(long, value_name = "URL")]
    pub(crate) preview: Option<String>,
    /// Let only those in who have the token that is part of the address
    #[arg(long)]
    pub(crate) private: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Expose a port of a sandbox over HTTP and print its address
#[derive(Debug, Args)]
#[command(after_help = "\
Whoever knows the address gets in, unless it is --private: then a browser is let in by the second
address that is printed, and other clients by the header x-tombolo-access. The certificate is by an
authority of this machine's own, see \"tombolo ingress root\".

Examples:
  tombolo sandbox expose $id 8000
  tombolo sandbox expose $id 8000 --private --json
  tombolo sandbox expose $id --pid 42")]
pub(crate) struct ExposeArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// The port that the program in the sandbox listens on
    #[arg(
        value_name = "PORT",
        required_unless_present = "pid",
        conflicts_with = "pid"
    )]
    pub(crate) port: Option<std::num::NonZero<u16>>,
    /// Whichever port this process of the sandbox listens on
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) pid: Option<i32>,
    /// Let only those in who have the token that is printed
    #[arg(long)]
    pub(crate) private: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// List the exposed ports of a sandbox
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tombolo sandbox exposures $id")]
pub(crate) struct ExposuresArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Take an address of a sandbox back
#[derive(Debug, Args)]
#[command(after_help = "\
Requests under way go on.

Examples:
  tombolo sandbox unexpose $id \"$address\"")]
pub(crate) struct UnexposeArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// The address, or the name with which it begins
    #[arg(value_name = "ADDRESS")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Let a sandbox live longer, counted from now
#[derive(Debug, Args)]
#[command(after_help = "\
Prints when it will end, which may be earlier than asked for: at most 30 minutes are given at once.

Examples:
  tombolo sandbox extend $id 10m")]
pub(crate) struct ExtendArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// How much longer, such as 10m
    #[arg(value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// End sandboxes now
#[derive(Debug, Args)]
#[command(after_help = "\
On the machine that runs the server, as root, this ends any organisation's; elsewhere those of the
token's organisation.

Examples:
  tombolo sandbox kill $id
  tombolo sandbox kill --all")]
pub(crate) struct KillArgs {
    /// The sandboxes' ids
    #[arg(
        value_name = "ID",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub(crate) ids: Vec<String>,
    /// Every sandbox that runs
    #[arg(long)]
    pub(crate) all: bool,
    /// Print the ids of those that were ended, as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}
