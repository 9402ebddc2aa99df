//! What a new sandbox may reach, and the secrets it may use: arguments of
//! `tombolo run` and `tombolo sandbox create`.

use std::path::PathBuf;

use clap::Args;

/// The network of a new sandbox. With none of these it has none.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct NetworkArgs {
    /// Let it reach these hosts, such as example.com, *.example.com (not example.com itself),
    /// example.com:443, 192.0.2.7 or 10.1.0.0/16; '*' alone is every public one; may be repeated
    /// [default: no network]
    #[arg(
        long,
        help_heading = "Network",
        value_name = "HOST[,HOST...]",
        value_delimiter = ','
    )]
    pub(crate) allow_net: Vec<String>,
    /// Let it use your variable NAME in requests to these hosts without seeing the value: inside,
    /// NAME holds a placeholder; may be repeated
    #[arg(long, help_heading = "Network", value_name = "NAME@HOST[,HOST...]")]
    pub(crate) secret: Vec<String>,
    /// The same with the value from a file, without the line feed at its end; - is standard input
    #[arg(
        long,
        help_heading = "Network",
        value_name = "NAME=PATH@HOST[,HOST...]"
    )]
    pub(crate) secret_file: Vec<String>,
    /// A policy document (JSON), for rules about requests and whatever else the flags cannot say;
    /// a secret that it names is given as NAME or NAME=PATH, without hosts
    #[arg(long, help_heading = "Network", value_name = "FILE")]
    pub(crate) egress_policy: Option<PathBuf>,
}
