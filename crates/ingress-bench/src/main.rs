//! What the way through the ingress costs: requests to a program that answers at once,
//! through a whole server and its connection to a node, beside the same program asked
//! directly and through nginx, in one run.
//!
//! The node is one in memory, so nothing of a virtual machine is in these figures. With
//! `--url` the same load goes to a port of a real sandbox instead.

mod load;
mod rival;
mod stand;
mod way;

use std::io::{Write as _, stderr, stdout};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use comfy_table::{Table, presets};

use load::{Load, Seen};
use rival::Nginx;
use stand::Stand;
use way::Way;

/// Measure the ingress beside other ways to the same program.
#[derive(Debug, Parser)]
struct Arguments {
    /// Requests a second, whether or not earlier ones are answered.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Seconds for each way and round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Connections of the client.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Rounds of which the median is taken.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Ask only this address of an exposed port.
    #[arg(long, requires = "root")]
    url: Option<http::Uri>,
    /// By whom the certificate of --url is signed, as PEM.
    #[arg(long)]
    root: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let load = Load {
        rate: arguments.rate,
        connections: arguments.connections,
        window: Duration::from_secs(arguments.seconds),
    };
    if let (Some(url), Some(root)) = (&arguments.url, &arguments.root) {
        let way = Way::to("the sandbox", url, root)?;
        return report(&load, arguments.rounds, &[way]).await;
    }
    let directory = tempfile::TempDir::new()?;
    let stand = Stand::start(directory.path()).await?;
    let mut ways = vec![stand.directly(), stand.through_ingress()?];
    let nginx = Nginx::start(&stand, directory.path()).await?;
    match &nginx {
        Some(nginx) => ways.push(nginx.way(&stand)?),
        None => writeln!(stderr(), "nginx is not installed and not measured")?,
    }
    report(&load, arguments.rounds, &ways).await?;
    stand.stop().await;
    Ok(())
}

async fn report(load: &Load, rounds: u32, ways: &[Way]) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "Way",
        "p50 in us",
        "p99 in us",
        "most in us",
        "answered a second",
        "as fast as it can, a second",
    ]);
    for way in ways {
        let mut seen = Vec::new();
        for _ in 0..rounds {
            seen.push(load.steady(way).await?);
        }
        seen.sort_by_key(Seen::p99_micros);
        let Some(median) = seen.get(seen.len() / 2) else {
            continue;
        };
        let fastest = load.as_fast_as_it_can(way).await?;
        table.add_row([
            way.name().to_owned(),
            median.p50_micros().to_string(),
            median.p99_micros().to_string(),
            median.max_micros().to_string(),
            format!("{:.0}", median.per_second()),
            format!("{fastest:.0}"),
        ]);
    }
    Ok(writeln!(stdout(), "{table}")?)
}
