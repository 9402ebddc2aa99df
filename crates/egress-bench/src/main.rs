//! What the egress proxy costs: requests, connections, bytes and waiting, beside
//! the same origin asked directly and through squid and mitmproxy, in one run.
//!
//! The program that is measured is the real one, `tombolo egress-proxy`, in a
//! process and with a user of its own, with rules, records and a secret. It has
//! one processor to itself; origin and client share the others.

mod guest;
mod idle;
mod load;
mod machine;
mod origin;
mod pacer;
mod proof;
mod proxy;
mod report;
mod rivals;
mod rounds;
mod route;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;

use guest::GuestSide;
use machine::Cores;
use origin::Origin;
use proxy::Proxy;
use report::{MEASURED, Report};
use rounds::{Bench, Part};
use route::{Route, Way};

/// Measure the egress proxy beside other ways to the same origin.
///
/// Needs root: it makes network namespaces and starts the proxy as a user of its own.
#[derive(Debug, Parser)]
struct Arguments {
    /// The program to measure; built with `cargo build --release -p tombolo-cli`.
    #[arg(long, env = "TOMBOLO_TEST_BINARY")]
    program: Option<PathBuf>,
    /// Rounds of which the median is taken.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Measure neither squid nor mitmproxy.
    #[arg(long)]
    without_rivals: bool,
    /// Measure only this; may be given more than once.
    #[arg(long)]
    only: Vec<Part>,
    /// Write JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "this needs root: it makes network namespaces and starts the proxy as a user of its own"
    );
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let program = match &arguments.program {
        Some(program) => std::path::absolute(program)?,
        None => std::env::current_exe()?.with_file_name("tombolo"),
    };
    anyhow::ensure!(
        program.exists(),
        "{} is not there: cargo build --release -p tombolo-cli",
        program.display()
    );
    let cores = Cores::choose()?;
    let origin = Origin::start(cores.origin)?;
    let guest = GuestSide::make()?;
    // Everything that is started from here on is measured.
    machine::pin(cores.proxy)?;
    let mut proxy = Proxy::start(&program, &origin).await?;
    let attached = proxy.attach(&guest.sockets.borrowed()).await?;
    let direct = Route {
        name: "direct",
        way: Way::Direct(origin.address),
        authority: origin::NAME.to_owned(),
        credential: origin::VALUE.to_owned(),
        trusted_pem: origin.authority_pem.clone(),
        process: None,
        has_http2: true,
        answered: Arc::default(),
    };
    let measured = Route {
        name: MEASURED,
        way: Way::Guest(guest.namespace.try_clone()?),
        authority: origin::NAME.to_owned(),
        credential: attached.placeholder.clone(),
        trusted_pem: attached.authority_pem.clone(),
        process: Some(proxy.pid),
        has_http2: true,
        answered: Arc::default(),
    };
    proof::check(cores, &measured)?;
    let answered = Arc::clone(&measured.answered);
    let mut bench = Bench {
        cores,
        parts: arguments.only.clone(),
        routes: vec![direct, measured],
        report: Report::default(),
    };
    let mut rivals = Vec::new();
    if !arguments.without_rivals {
        for (rival, route) in [
            rivals::squid(&origin).await?,
            rivals::mitmproxy(&origin).await?,
        ] {
            rivals.push(rival);
            bench.routes.push(route);
        }
    }
    bench.run(arguments.rounds)?;
    proof::check_counts(&mut proxy, &attached.id, &answered).await?;
    if bench.is_wanted(Part::Quiet) {
        bench.quiet(&mut proxy, &program, (&origin, &guest)).await?;
    }
    bench.report.print(arguments.json).context("nobody reads")
}
