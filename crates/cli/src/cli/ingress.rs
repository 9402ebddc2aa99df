//! The arguments of `tombolo ingress`.

use clap::{Args, Subcommand};

/// See what lets clients trust the addresses of exposed ports
#[derive(Debug, Subcommand)]
pub(crate) enum IngressCommand {
    Root(RootArgs),
}

/// Print the certificate that clients have to trust, as PEM
#[derive(Debug, Args)]
#[command(after_help = "\
It can sign for names below ingress.base and for no others. Browsers with a store of their own, such
as Firefox, have to be given it there. \"tombolo up\" makes it when it starts for the first time.

Examples:
  tombolo ingress root > tombolo.pem
  curl --cacert tombolo.pem https://…
  tombolo ingress root --install")]
pub(crate) struct RootArgs {
    /// Add it to what this machine trusts, as root
    #[arg(long)]
    pub(crate) install: bool,
}
