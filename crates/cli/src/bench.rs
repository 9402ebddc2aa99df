//! `tombolo bench`: what this machine does, measured through the same client
//! that everything else uses. It starts a server of its own, first without a
//! pool and then with one, and boots the same machine cold for comparison.

mod measure;
mod memory;
mod report;

use std::time::Duration;

use tombolo_api::native::ServerInfo;
use tombolo_diag::ExitCode;

use crate::children::node_program;
use crate::cli::BenchArgs;
use crate::commands::block_on;
use crate::config::Settings;
use crate::context::{Context, require_root};
use crate::failure::{Failure, Outcome};
use crate::state::Tenure;
use crate::up::{Fleet, ensure_default, take_place};
use crate::{output, provision};
use measure::{Bench, Samples};
use report::{Report, Row};
use tombolo_client::Client;

/// How often the machine is booted cold; each takes seconds.
const COLD_BOOTS: u32 = 3;
/// How many sandboxes idle while memory is looked at.
const IDLE_SANDBOXES: usize = 20;
/// The larger of the two crowds.
const CROWD: usize = 100;
/// Sandboxes beside the crowd, such as those that are still being ended.
const SPARE: usize = 28;
/// How long the pool may take to be full.
const POOL_TIMEOUT: Duration = Duration::from_mins(5);

pub(crate) fn bench(context: &Context, args: &BenchArgs) -> Outcome {
    let mut settings = context.settings(&args.settings.flags())?;
    require_root("\"tombolo bench\"")?;
    settings.sandbox_limit = settings.sandbox_limit.max(CROWD + SPARE);
    let memory_needed = (CROWD + SPARE) as u64 * u64::from(settings.default_memory_mib);
    settings.memory_limit_mib = settings.memory_limit_mib.max(memory_needed);
    settings.listen.set_port(0);
    settings.ingress.listen.set_port(0);
    settings.ssh.listen.set_port(0);
    context.state.prepare(&settings)?;
    let lock = block_on(take_place(context, Tenure::Stays));
    let _lock = lock.map_err(|failure| failure.context("another server would be measured too"))?;
    context.state.remove_running()?;
    let _provisioned = provision::provision(context, &settings)?;
    let mut context = context.clone();
    // A line for each sandbox would be most of what there is to read.
    context.log.get_or_insert_with(|| "warn".to_owned());
    let report = block_on(measure_all(&context, &settings, args.runs))?;
    if args.json {
        output::json(&report)
    } else {
        report.print()
    }
}

async fn measure_all(context: &Context, settings: &Settings, runs: u32) -> Outcome<Report> {
    let mut report = Report::default();
    say("booting the machine cold");
    let mut cold = Samples::default();
    for _ in 0..COLD_BOOTS {
        cold.push(node_program::cold_boot(&context.state, settings).await?);
    }
    report.set_cold_boot(&cold);

    say("creating without a pool");
    let without_pool = Settings {
        pool_size: 0,
        ..settings.clone()
    };
    let samples = with_server(context, &without_pool, async |client, _fleet| {
        Bench::new(&client).create(runs).await
    })
    .await?;
    report.push(Row::new("create, no pool", &samples));

    with_server(context, settings, async |client, fleet| {
        report.describe(&info(&client).await?, settings);
        measure_with_pool(&mut report, &client, fleet, runs).await
    })
    .await?;
    Ok(report)
}

/// Starts a server, hands it over, and stops it whatever came of it.
async fn with_server<T>(
    context: &Context,
    settings: &Settings,
    work: impl AsyncFnOnce(Client, &Fleet) -> Outcome<T>,
) -> Outcome<T> {
    let fleet = Fleet::start(context, settings, Tenure::Stays).await?;
    let done = match ensure_default(context).await {
        Ok(client) => work(client, &fleet).await,
        Err(failure) => Err(failure),
    };
    let drained = crate::up::drain(context).await;
    fleet.stop().await;
    context.state.remove_running()?;
    let done = done?;
    drained.map(|()| done)
}

async fn measure_with_pool(
    report: &mut Report,
    client: &Client,
    fleet: &Fleet,
    runs: u32,
) -> Outcome {
    let bench = Bench::new(client);
    say("creating from the pool");
    let mut create = Samples::default();
    let mut first_exec = Samples::default();
    for _ in 0..runs {
        pool_full(client).await?;
        let (created, executed) = bench.create_and_exec().await?;
        create.push(created);
        first_exec.push(executed);
    }
    report.push(Row::new("create, from the pool", &create));
    report.push(Row::new("create to first exec", &first_exec));

    say("running commands and moving files");
    pool_full(client).await?;
    let sandbox = bench.sandbox().await?;
    report.push(Row::new("exec true", &bench.exec(&sandbox, runs).await?));
    report.push(Row::new("deno eval", &bench.eval(&sandbox, runs).await?));
    for (name, bytes, repeat) in [
        ("1 KiB", 1024, runs),
        ("64 MiB", 64 * 1024 * 1024, runs.min(3)),
    ] {
        let files = bench.files(&sandbox, bytes, repeat).await?;
        report.push(Row::new(&format!("write {name}"), &files.write).moving(bytes));
        report.push(Row::new(&format!("read {name}"), &files.read).moving(bytes));
        report.push(Row::new(&format!("read {name} in pieces"), &files.read_pieces).moving(bytes));
    }
    bench.end(sandbox).await?;

    say("creating many at once");
    pool_full(client).await?;
    let idle = bench.crowd(IDLE_SANDBOXES).await?;
    report.push(Row::new(
        &format!("{IDLE_SANDBOXES} creates at once"),
        &idle.latency,
    ));
    memory::settle().await;
    report.memory = Some(memory::look(client, &fleet.pids(), IDLE_SANDBOXES).await?);
    bench.disperse(idle).await?;
    pool_full(client).await?;
    let crowd = bench.crowd(CROWD).await?;
    report.push(Row::new(
        &format!("{CROWD} creates at once"),
        &crowd.latency,
    ));
    bench.disperse(crowd).await
}

async fn info(client: &Client) -> Outcome<ServerInfo> {
    Ok(client.info().await?)
}

/// Waits until every machine that the pool wants is there.
async fn pool_full(client: &Client) -> Outcome {
    let full = async {
        loop {
            if let Some(node) = info(client).await?.node
                && node.pool_ready >= node.pool_target
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(POOL_TIMEOUT, full).await {
        Ok(full) => full,
        Err(_elapsed) => Err(
            Failure::message(ExitCode::Failure, "the pool does not fill")
                .hint("\"tombolo doctor\" says what this machine lacks; the node's log is above"),
        ),
    }
}

fn say(what: &str) {
    output::tell(&format!("{what} ..."));
}
