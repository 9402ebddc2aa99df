//! The figures, as a table and as JSON.

use std::time::Duration;

use indicatif::HumanBytes;
use serde::Serialize;
use tombolo_api::native::ServerInfo;

use super::measure::Samples;
use super::memory::Memory;
use crate::config::Settings;
use crate::failure::Outcome;
use crate::output;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    version: String,
    isolation: String,
    isolation_reason: String,
    host_processors: usize,
    sandbox_memory_mib: u32,
    sandbox_processors: u32,
    pool_size: usize,
    /// The median of booting the same machine without a template.
    cold_boot_ms: f64,
    rows: Vec<Row>,
    pub(super) memory: Option<Memory>,
}

/// One thing that was measured.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    name: String,
    runs: usize,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    /// How many times the median goes into a cold boot.
    cold_boot_ratio: f64,
    /// 10^6 bytes a second, at the median.
    megabytes_per_second: Option<f64>,
}

impl Row {
    pub(super) fn new(name: &str, samples: &Samples) -> Self {
        Self {
            name: name.to_owned(),
            runs: samples.len(),
            p50_ms: millis(samples.percentile(50)),
            p95_ms: millis(samples.percentile(95)),
            p99_ms: millis(samples.percentile(99)),
            cold_boot_ratio: 0.0,
            megabytes_per_second: None,
        }
    }

    /// It moved so many bytes each time.
    pub(super) fn moving(mut self, bytes: usize) -> Self {
        let bytes = u32::try_from(bytes).map_or(f64::from(u32::MAX), f64::from);
        self.megabytes_per_second = Some(bytes / 1000.0 / self.p50_ms);
        self
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.runs.to_string(),
            format!("{:.1}", self.p50_ms),
            format!("{:.1}", self.p95_ms),
            format!("{:.1}", self.p99_ms),
            format!("{:.1}", self.cold_boot_ratio),
            self.megabytes_per_second
                .map_or_else(String::new, |rate| format!("{rate:.1}")),
        ]
    }
}

impl Report {
    pub(super) fn set_cold_boot(&mut self, samples: &Samples) {
        self.cold_boot_ms = millis(samples.percentile(50));
        self.push(Row::new("cold boot", samples));
    }

    pub(super) fn describe(&mut self, info: &ServerInfo, settings: &Settings) {
        self.version.clone_from(&info.version);
        if let Some(node) = &info.node {
            self.isolation.clone_from(&node.isolation);
            self.isolation_reason.clone_from(&node.isolation_reason);
        }
        self.host_processors = std::thread::available_parallelism().map_or(0, usize::from);
        self.sandbox_memory_mib = settings.default_memory_mib;
        self.sandbox_processors = settings.vcpu_count;
        self.pool_size = settings.pool_size;
    }

    /// Adds a row, compared with the cold boot.
    pub(super) fn push(&mut self, mut row: Row) {
        row.cold_boot_ratio = self.cold_boot_ms / row.p50_ms;
        self.rows.push(row);
    }

    pub(super) fn print(&self) -> Outcome {
        output::data(&format!(
            "isolation {} ({}), {} processors here, {} MiB and {} processors each, pool of {}\n",
            self.isolation,
            self.isolation_reason,
            self.host_processors,
            self.sandbox_memory_mib,
            self.sandbox_processors,
            self.pool_size
        ))?;
        let head = [
            "MEASURE", "RUNS", "P50 MS", "P95 MS", "P99 MS", "COLD/P50", "MB/S",
        ];
        output::table(&head, self.rows.iter().map(Row::cells).collect())?;
        let Some(memory) = &self.memory else {
            return Ok(());
        };
        let bytes = |bytes| HumanBytes(bytes).to_string();
        output::data(&format!(
            "\nmemory with {} sandboxes idle\n\
             server  {} resident, {} at most\n\
             node    {} resident, {} at most\n\
             sandbox {} of its own (median), {} (most)",
            memory.sandboxes,
            bytes(memory.server_resident),
            bytes(memory.server_peak),
            bytes(memory.node_resident),
            bytes(memory.node_peak),
            bytes(memory.sandbox_private_median),
            bytes(memory.sandbox_private_most),
        ))
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_also_a_ratio() {
        let samples = |millis| {
            let mut samples = Samples::default();
            samples.push(Duration::from_millis(millis));
            samples
        };
        let mut report = Report::default();
        report.set_cold_boot(&samples(4000));
        report.push(Row::new("write", &samples(100)).moving(10_000_000));
        let cells = report.rows[1].cells();
        assert_eq!(cells[0..2], ["write", "1"]);
        let ratio: f64 = cells[5].parse().unwrap();
        assert!((39.9..40.1).contains(&ratio), "{ratio}");
        let rate: f64 = cells[6].parse().unwrap();
        assert!((99.8..100.2).contains(&rate), "{rate}");
    }
}
