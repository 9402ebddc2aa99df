//! Records of what sandboxes sent out, were refused and were given: one for each request,
//! flow and DNS question.
//!
//! A record is begun before anything is decided and is written when it is dropped, so none
//! can be forgotten and none is written twice (G5). It holds words of the policy, names and
//! numbers; no values of secrets, queries, headers or bodies (LEAK-01, LEAK-02).

mod record;
mod writer;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    sync::{broadcast, mpsc},
    time::Instant,
};

pub(crate) use record::{Outcome, Record};
pub use writer::OpenAuditError;
pub(crate) use writer::Writer;

use crate::counters::Counters;

/// Records that wait to be written.
const QUEUE_LEN: usize = 4096;
/// Records that a subscriber may be behind; more are skipped for it.
const TAIL_LEN: usize = 1024;

/// A record as it is written: one line of JSON, and whose it is.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) sandbox: Arc<str>,
    pub(crate) json: String,
}

/// Where records go.
#[derive(Debug)]
pub(crate) struct Audit {
    queue: mpsc::Sender<Arc<Line>>,
    tail: broadcast::Sender<Arc<Line>>,
    counters: Arc<Counters>,
    serial: AtomicU64,
    /// What the identifiers of this process begin with.
    prefix: String,
}

/// A record that is being made.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) record: Record,
    audit: Arc<Audit>,
    permit: Option<mpsc::OwnedPermit<Arc<Line>>>,
    started: Instant,
    is_discarded: bool,
}

impl Audit {
    /// Records go to the queue, whose other end a [`Writer`] holds.
    pub(crate) fn new(
        counters: Arc<Counters>,
        prefix: String,
    ) -> (Arc<Self>, mpsc::Receiver<Arc<Line>>) {
        let (queue, lines) = mpsc::channel(QUEUE_LEN);
        let (tail, _) = broadcast::channel(TAIL_LEN);
        let audit = Self {
            queue,
            tail,
            counters,
            serial: AtomicU64::new(0),
            prefix,
        };
        (Arc::new(audit), lines)
    }

    /// Records from now on, of all sandboxes.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Line>> {
        self.tail.subscribe()
    }

    /// Begins a record.
    pub(crate) fn begin(self: &Arc<Self>, mut record: Record) -> Draft {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        record.id = format!("{}{serial:08x}", self.prefix);
        Draft {
            record,
            audit: Arc::clone(self),
            permit: None,
            started: Instant::now(),
            is_discarded: false,
        }
    }

    fn write(&self, line: Line, permit: Option<mpsc::OwnedPermit<Arc<Line>>>) {
        let line = Arc::new(line);
        // Nobody may be listening, which is no failure.
        drop(self.tail.send(Arc::clone(&line)));
        match permit {
            Some(permit) => drop(permit.send(line)),
            None => {
                if self.queue.try_send(line).is_err() {
                    self.counters.note_dropped_record();
                }
            }
        }
    }
}

impl Draft {
    /// Waits until there is room for this record for certain: denials and uses of secrets
    /// are recorded even if that holds the sandbox up.
    pub(crate) async fn keep(&mut self) {
        if self.permit.is_none() {
            // The writer ends last of all.
            self.permit = self.audit.queue.clone().reserve_owned().await.ok();
        }
    }

    /// The attempt is recorded otherwise.
    pub(crate) fn discard(mut self) {
        self.is_discarded = true;
    }

    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.is_discarded {
            return;
        }
        self.record.total_us =
            u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.audit.counters.add(&self.record);
        match serde_json::to_string(&self.record) {
            Ok(json) => {
                let sandbox = Arc::clone(&self.record.sandbox);
                self.audit.write(Line { sandbox, json }, self.permit.take());
            }
            Err(error) => tracing::error!(%error, "cannot write an audit record"),
        }
    }
}
