//! Sums of what sandboxes did, for metrics and usage. Names of hosts are kept up to a bound
//! for each sandbox; what comes after them is summed as one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::audit::{Outcome, Record};

/// Hosts of one sandbox that are told apart.
const HOSTS_MAX: usize = 64;
/// What further hosts are summed as. No host name has a `(`.
const OTHER_HOSTS: &str = "(other)";

/// What happened between a sandbox and a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostCounts {
    pub(crate) attempts: u64,
    pub(crate) denied: u64,
    pub(crate) failed: u64,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) secret_uses: u64,
    pub(crate) scrubbed: u64,
}

/// The sums of this process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    sandboxes: Mutex<HashMap<Arc<str>, BTreeMap<String, HostCounts>>>,
    dropped_records: AtomicU64,
}

impl Counters {
    pub(crate) fn add(&self, record: &Record) {
        let mut sandboxes = self.sandboxes.lock();
        let hosts = sandboxes.entry(Arc::clone(&record.sandbox)).or_default();
        let host = record.name.as_deref().unwrap_or("(address)");
        let host = if hosts.contains_key(host) || hosts.len() < HOSTS_MAX {
            host
        } else {
            OTHER_HOSTS
        };
        let counts = hosts.entry(host.to_owned()).or_default();
        counts.attempts += 1;
        counts.denied += u64::from(record.decision == Outcome::Deny);
        counts.failed += u64::from(record.decision == Outcome::Error);
        counts.request_bytes = counts.request_bytes.saturating_add(record.req_bytes);
        counts.response_bytes = counts.response_bytes.saturating_add(record.resp_bytes);
        let uses = record.secrets.iter().map(|used| u64::from(used.count));
        counts.secret_uses = counts.secret_uses.saturating_add(uses.sum());
        counts.scrubbed = counts.scrubbed.saturating_add(record.scrubbed);
    }

    /// What one sandbox did, by host.
    pub(crate) fn of(&self, sandbox: &str) -> BTreeMap<String, HostCounts> {
        self.sandboxes
            .lock()
            .get(sandbox)
            .cloned()
            .unwrap_or_default()
    }

    /// The sandbox is gone and its sums were read.
    pub(crate) fn forget(&self, sandbox: &str) {
        self.sandboxes.lock().remove(sandbox);
    }

    pub(crate) fn note_dropped_record(&self) {
        self.dropped_records.fetch_add(1, Ordering::Relaxed);
    }

    /// Records of ordinary requests for which there was no room.
    pub(crate) fn dropped_records(&self) -> u64 {
        self.dropped_records.load(Ordering::Relaxed)
    }

    /// All sums in the text format of Prometheus, 0.0.4. Neither identifiers nor host names
    /// have characters that would have to be escaped.
    pub(crate) fn prometheus(&self) -> String {
        let sandboxes = self.sandboxes.lock();
        let mut text = String::new();
        for (name, value) in METRICS {
            text.extend(["# TYPE tombolo_egress_", name, "_total counter\n"]);
            for (sandbox, hosts) in sandboxes.iter() {
                for (host, counts) in hosts {
                    let labels = format!("sandbox=\"{sandbox}\",host=\"{host}\"");
                    let value = value(counts);
                    let metric = format!("tombolo_egress_{name}_total{{{labels}}} {value}\n");
                    text.push_str(&metric);
                }
            }
        }
        let dropped = self.dropped_records().to_string();
        text.push_str("# TYPE tombolo_egress_dropped_records_total counter\n");
        text.extend(["tombolo_egress_dropped_records_total ", &dropped, "\n"]);
        text
    }
}

type Metric = (&'static str, fn(&HostCounts) -> u64);

const METRICS: [Metric; 7] = [
    ("attempts", |counts| counts.attempts),
    ("denied", |counts| counts.denied),
    ("failed", |counts| counts.failed),
    ("request_bytes", |counts| counts.request_bytes),
    ("response_bytes", |counts| counts.response_bytes),
    ("secret_uses", |counts| counts.secret_uses),
    ("scrubbed", |counts| counts.scrubbed),
];
