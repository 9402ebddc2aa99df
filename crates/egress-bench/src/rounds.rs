//! The order of measurements: in each round every route has its turn at every
//! figure, so that what the machine does meanwhile is done to all of them.

use std::path::Path;

use clap::ValueEnum;
use http::Version;

use crate::guest::GuestSide;
use crate::idle::{self, micros};
use crate::load::{self, Throughput};
use crate::machine::{Cores, number};
use crate::origin::Origin;
use crate::proxy::Proxy;
use crate::report::{MEASURED, Report, What};
use crate::route::Route;

/// Requests in a second at which latencies are compared.
const RATE: u64 = 5000;
/// Some routes cannot do that; what they can is this at least.
const RATE_MIN: u64 = 16;
const GIGA: f64 = 1e9;
const KEEP_ALIVE: [What; 2] = [What::KeepAlive, What::KeepAlivePerCore];
const MEDIAN: f64 = 0.5;
const TAIL: f64 = 0.99;

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Requests on kept connections, HTTP/1.1.
    Http1,
    /// The same with HTTP/2.
    Http2,
    /// Latency at a steady rate.
    Steady,
    /// New TLS connections.
    Connections,
    /// One long body.
    Bulk,
    /// Server-sent events.
    Events,
    /// Idle sandboxes and the hand-out of slots.
    Quiet,
}

/// All routes, and what was found.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) cores: Cores,
    /// What is measured; all if it is empty.
    pub(crate) parts: Vec<Part>,
    /// The direct one first: the others are compared with it.
    pub(crate) routes: Vec<Route>,
    pub(crate) report: Report,
}

impl Bench {
    /// All that is measured under load.
    pub(crate) fn run(&mut self, rounds: u32) -> anyhow::Result<()> {
        let order = [
            Part::Http1,
            Part::Http2,
            Part::Steady,
            Part::Connections,
            Part::Bulk,
            Part::Events,
        ];
        for _ in 0..rounds {
            for part in order {
                if self.is_wanted(part) {
                    self.measure(part)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn is_wanted(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    fn measure(&mut self, part: Part) -> anyhow::Result<()> {
        let http2 = [What::KeepAliveHttp2, What::KeepAliveHttp2PerCore];
        match part {
            Part::Http1 => self.throughput(Version::HTTP_11, KEEP_ALIVE),
            Part::Http2 => self.throughput(Version::HTTP_2, http2),
            Part::Steady => self.steady(),
            Part::Connections => self.new_connections(),
            Part::Bulk => self.bulk(),
            Part::Events => self.events(),
            // Once, and not among the rounds.
            Part::Quiet => Ok(()),
        }
    }

    /// What is measured without load.
    pub(crate) async fn quiet(
        &mut self,
        proxy: &mut Proxy,
        program: &Path,
        (origin, guest): (&Origin, &GuestSide),
    ) -> anyhow::Result<()> {
        let memory = idle::memory_kib(program, origin, guest).await?;
        self.report.push(What::IdleMemory, MEASURED, memory);
        let waited = idle::hand_out(proxy).await?;
        for (what, seen, quantile) in [
            (What::TakeP50, &waited.take, MEDIAN),
            (What::TakeP99, &waited.take, TAIL),
            (What::AttachP50, &waited.attach, MEDIAN),
            (What::AttachP99, &waited.attach, TAIL),
        ] {
            self.report.push(what, MEASURED, micros(seen, quantile));
        }
        Ok(())
    }

    fn throughput(&mut self, version: Version, whats: [What; 2]) -> anyhow::Result<()> {
        for route in &self.routes {
            if version == Version::HTTP_2 && !route.has_http2 {
                continue;
            }
            let process = route.process;
            let found = route.measure(self.cores, version, async move |client| {
                load::keep_alive(client, process).await
            })?;
            note(&mut self.report, route, whats, found, 1.0);
        }
        Ok(())
    }

    fn new_connections(&mut self) -> anyhow::Result<()> {
        for route in &self.routes {
            let process = route.process;
            let found = route.measure(self.cores, Version::HTTP_11, async move |client| {
                load::new_connections(client, process).await
            })?;
            let whats = [What::NewConnections, What::NewConnectionsPerCore];
            note(&mut self.report, route, whats, found, 1.0);
        }
        Ok(())
    }

    fn bulk(&mut self) -> anyhow::Result<()> {
        for route in &self.routes {
            let process = route.process;
            let found = route.measure(self.cores, Version::HTTP_11, async move |client| {
                load::bulk(client, process).await
            })?;
            let whats = [What::Bulk, What::BulkPerCore];
            note(&mut self.report, route, whats, found, GIGA);
        }
        Ok(())
    }

    /// At the same rate for all who can, and for the others at half of what they can.
    fn steady(&mut self) -> anyhow::Result<()> {
        let is_known = |route: &Route| self.report.median(What::KeepAlive, route.name).is_some();
        if !self.routes.iter().all(is_known) {
            self.throughput(Version::HTTP_11, KEEP_ALIVE)?;
        }
        let mut base = None;
        for route in &self.routes {
            let most = self.report.median(What::KeepAlive, route.name);
            if most.is_some_and(|most| most < number(RATE)) {
                Self::steady_slowly(self.cores, &self.routes, route, &mut self.report)?;
                continue;
            }
            let [p50, p99] = latencies(self.cores, route, RATE)?;
            self.report.push(What::SteadyP50, route.name, p50);
            self.report.push(What::SteadyP99, route.name, p99);
            let [base50, base99] = *base.get_or_insert([p50, p99]);
            if route.process.is_some() {
                self.report.push(What::AddedP50, route.name, p50 - base50);
                self.report.push(What::AddedP99, route.name, p99 - base99);
            }
        }
        Ok(())
    }

    fn steady_slowly(
        cores: Cores,
        routes: &[Route],
        route: &Route,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let most = report.median(What::KeepAlive, route.name).unwrap_or(0.0);
        let rate = (RATE_MIN..RATE)
            .take_while(|rate| number(*rate) <= most / 2.0)
            .last()
            .unwrap_or(RATE_MIN);
        let Some(direct) = routes.first() else {
            return Ok(());
        };
        let [base50, base99] = latencies(cores, direct, rate)?;
        let [p50, p99] = latencies(cores, route, rate)?;
        report.push(What::BearableRate, route.name, number(rate));
        report.push(What::BearableAddedP50, route.name, p50 - base50);
        report.push(What::BearableAddedP99, route.name, p99 - base99);
        Ok(())
    }

    fn events(&mut self) -> anyhow::Result<()> {
        let mut base = None;
        for route in &self.routes {
            let seen = route.measure(self.cores, Version::HTTP_11, load::events)?;
            let [p50, p99] = [MEDIAN, TAIL].map(|quantile| micros(&seen, quantile));
            self.report.push(What::EventsP50, route.name, p50);
            self.report.push(What::EventsP99, route.name, p99);
            let [base50, base99] = *base.get_or_insert([p50, p99]);
            if route.process.is_some() {
                self.report
                    .push(What::EventsAddedP50, route.name, p50 - base50);
                self.report
                    .push(What::EventsAddedP99, route.name, p99 - base99);
            }
        }
        Ok(())
    }
}

fn latencies(cores: Cores, route: &Route, rate: u64) -> anyhow::Result<[f64; 2]> {
    let seen = route.measure(cores, Version::HTTP_11, async move |client| {
        load::steady(client, rate).await
    })?;
    Ok([MEDIAN, TAIL].map(|quantile| micros(&seen, quantile)))
}

fn note(report: &mut Report, route: &Route, whats: [What; 2], found: Throughput, unit: f64) {
    let [wall, per_core] = whats;
    report.push(wall, route.name, found.per_second / unit);
    if let Some(found) = found.per_cpu_second {
        report.push(per_core, route.name, found / unit);
    }
}
