//! The arguments of `tombolo egress`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ServerArgs;

/// See and change what sandboxes send out: policies, secrets, records
#[derive(Debug, Subcommand)]
pub(crate) enum EgressCommand {
    #[command(subcommand)]
    Policy(PolicyCommand),
    #[command(subcommand)]
    Secret(SecretCommand),
    Tail(TailArgs),
    Top(TopArgs),
    Explain(ExplainArgs),
}

/// Read and replace what a sandbox may reach
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    Get(GetPolicyArgs),
    Set(SetPolicyArgs),
}

/// Print a sandbox's policy document, which is JSON
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tombolo egress policy get $id
  tombolo egress policy get $id > policy.json")]
pub(crate) struct GetPolicyArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Replace what a sandbox may reach, while it runs
#[derive(Debug, Args)]
#[command(after_help = "\
It is in force at once, also for connections that are open: those that it does not allow end.
Secrets that a document leaves out stay as they are. A document with a \"generation\", as \"policy
get\" prints it, replaces that one only, so that two people do not undo each other's changes.

Examples:
  tombolo egress policy set $id policy.json
  tombolo egress policy set $id --allow-net example.com,api.example.com
  tombolo egress policy set $id --no-net")]
pub(crate) struct SetPolicyArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) what: NewPolicy,
    /// Print the generation and the warnings as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// The document, or the list of hosts alone.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct NewPolicy {
    /// A policy document; - is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Replace only the list of hosts; '*' alone is every public one; may be repeated
    #[arg(long, value_name = "HOST[,HOST...]", value_delimiter = ',')]
    pub(crate) allow_net: Vec<String>,
    /// Replace only the list of hosts: none may be reached
    #[arg(long)]
    pub(crate) no_net: bool,
}

/// List, set and revoke a sandbox's secrets
#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    List(ListSecretsArgs),
    Put(PutSecretArgs),
    Revoke(RevokeSecretArgs),
}

/// List a sandbox's secrets: placeholders and hosts, never values
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tombolo egress secret list $id
  tombolo egress secret list $id --json")]
pub(crate) struct ListSecretsArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Give a sandbox a secret, or rotate one that it has
#[derive(Debug, Args)]
#[command(after_help = "\
The value is that of your variable NAME, unless --file says otherwise. To rotate a secret, put it
again: the placeholder stays, and the old value is out of use at once. What is left out stays as it
is; a new secret needs hosts, which the sandbox must also be allowed to reach, and is seen by
processes that start afterwards.

Examples:
  API_KEY=… tombolo egress secret put $id API_KEY@api.example.com
  tombolo egress secret put $id API_KEY --file ./new-key
  tombolo egress secret put $id API_KEY@api.example.com --keep-value")]
pub(crate) struct PutSecretArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// The secret, with the hosts it may be sent to
    #[arg(value_name = "NAME[@HOST[,HOST...]]")]
    pub(crate) secret: String,
    /// Take the value from this file, without the line feed at its end; - is standard input
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    /// Change the rest only
    #[arg(long, conflicts_with = "file")]
    pub(crate) keep_value: bool,
    /// The parts of a request in which the placeholder becomes the value: header, query, path,
    /// json, form, text, multipart, websocket
    #[arg(long = "in", value_name = "PART[,PART...]", value_delimiter = ',')]
    pub(crate) slots: Vec<String>,
    /// Whether requests to its hosts must carry it and no other credential
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) require: Option<bool>,
    /// What becomes of a request with the placeholder where it may not be used: forward or deny
    #[arg(long, value_name = "WHAT")]
    pub(crate) on_ineligible: Option<String>,
    /// Print the secret, without its value, as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Use a secret no more, from now on
#[derive(Debug, Args)]
#[command(after_help = "\
Requests that carry its placeholder are refused, and responses are still searched for its value.

Examples:
  tombolo egress secret revoke $id API_KEY")]
pub(crate) struct RevokeSecretArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// The secret's name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Watch what sandboxes send out, one line for each request, flow and question for a name
#[derive(Debug, Args)]
#[command(after_help = "\
Shows what happens from now on, until it is interrupted or the sandbox ends. With --json each line is
a record as a JSON object.

Examples:
  tombolo egress tail
  tombolo egress tail $id --denied
  tombolo egress tail --json | jq -r 'select(.secrets) | .name'")]
pub(crate) struct TailArgs {
    /// Only this sandbox's [default: all]
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Only what was refused
    #[arg(long)]
    pub(crate) denied: bool,
    /// Print JSON lines
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Sum up what sandboxes sent out, by host, the busiest first
#[derive(Debug, Args)]
#[command(after_help = "\
Counts since the egress proxy was started last, of sandboxes that run.

Examples:
  tombolo egress top
  tombolo egress top $id --json")]
pub(crate) struct TopArgs {
    /// Only this sandbox's [default: all that run]
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Say what a sandbox's policy makes of a request, without sending it
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 1 if the request would be refused.

Examples:
  tombolo egress explain $id GET https://api.example.com/v1/models
  tombolo egress explain $id POST https://api.example.com/v1/chat \\
      -H 'content-type: application/json' --data '{\"model\": \"small\"}'
  tombolo egress explain $id CONNECT tcp://db.example.com:5432")]
pub(crate) struct ExplainArgs {
    /// The sandbox's id
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// The method, such as GET; anything for tcp://, which has none
    #[arg(value_name = "METHOD")]
    pub(crate) method: String,
    /// The whole address: https://host/path, or tcp://host:port for a connection alone
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// A header of the request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// The body of the request; @PATH reads a file, @- standard input
    #[arg(long, value_name = "TEXT")]
    pub(crate) data: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}
