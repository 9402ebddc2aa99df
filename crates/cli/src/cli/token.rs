//! The arguments of `tombolo token`.

use clap::{Args, Subcommand};

/// Create, list and revoke the tokens that open the server
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    Create(CreateTokenArgs),
    List(ListTokensArgs),
    Revoke(RevokeTokenArgs),
}

/// Create a token and print it, once
#[derive(Debug, Args)]
#[command(after_help = "\
The server keeps only a hash: a token that is lost cannot be shown again, only replaced.

Examples:
  tombolo token create --name laptop
  export DENO_DEPLOY_TOKEN=\"$(tombolo token create)\"")]
pub(crate) struct CreateTokenArgs {
    /// What to call it
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) name: String,
    /// The organisation that it acts for, made if it does not exist
    #[arg(long, value_name = "SLUG", default_value = "default")]
    pub(crate) organisation: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// List tokens, without their secret part
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tombolo token list
  tombolo token list --json")]
pub(crate) struct ListTokensArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Make a token open nothing any more
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tombolo token revoke tok_0123456789abcdefghjk")]
pub(crate) struct RevokeTokenArgs {
    /// The token's id, as listed
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}
