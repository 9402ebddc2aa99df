//! The arguments of `tombolo ssh-key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ServerArgs;

/// Add, list and remove the public keys that open sandboxes over SSH
#[derive(Debug, Subcommand)]
pub(crate) enum SshKeyCommand {
    Add(AddSshKeyArgs),
    List(ListSshKeysArgs),
    Remove(RemoveSshKeyArgs),
}

/// Register a public key; it opens every sandbox of the organisation
#[derive(Debug, Args)]
#[command(after_help = "\
The user name is then the sandbox's id. Ed25519 and ECDSA keys are taken.

Examples:
  tombolo ssh-key add ~/.ssh/id_ed25519.pub
  ssh -p 2222 $id@localhost")]
pub(crate) struct AddSshKeyArgs {
    /// The file of the public key
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// What to call it [default: the comment in the file]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// List the keys of the organisation
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tombolo ssh-key list")]
pub(crate) struct ListSshKeysArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Make a key open nothing any more
#[derive(Debug, Args)]
#[command(after_help = "\
Who is logged in by it stays.

Examples:
  tombolo ssh-key remove SHA256:uNiVztksCsDhcc0u9e8BrrQXVUpKZIDTMczCvj3tD2s")]
pub(crate) struct RemoveSshKeyArgs {
    /// The key's fingerprint, as listed
    #[arg(value_name = "FINGERPRINT")]
    pub(crate) fingerprint: String,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}
