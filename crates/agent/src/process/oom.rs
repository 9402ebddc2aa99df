//! Whom the kernel killed because memory ran out, read from its log.
//!
//! Programs may write to the log too, and a guest's root may forge anything;
//! the verdict is a help for people, nothing depends on it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, SeekFrom, seek};
use rustix::io::Errno;
use tombolo_guest_proto::v1::OomVerdict;
use tombolo_sys::guest::readiness::Readiness;

const KILLED_MAX: usize = 1024;
/// Longer than the longest record that the kernel hands out.
const RECORD_LEN_MAX: usize = 8192;
/// Records read before other work gets a turn.
const RECORDS_PER_TURN: usize = 64;
const SIGKILL_CODE: i32 = 128 + 9;

/// The processes that the kernel killed for memory.
#[derive(Debug, Default)]
pub(crate) struct KernelKills {
    log: Option<Arc<OwnedFd>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    count: u64,
    /// The latest, with the count at that moment.
    killed: VecDeque<(i32, u64)>,
}

impl KernelKills {
    /// Watches the kernel's log from now on.
    pub(crate) fn watching() -> std::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let log = rustix::fs::open("/dev/kmsg", flags, Mode::empty())?;
        seek(&log, SeekFrom::End(0))?;
        Ok(Self {
            log: Some(Arc::new(log)),
            state: Mutex::default(),
        })
    }

    pub(crate) fn count(&self) -> u64 {
        self.state.lock().count
    }

    /// Why `pid`, which ended with `code`, ended. `before` is the count at its
    /// start.
    pub(crate) fn verdict(&self, pid: i32, code: i32, before: u64) -> OomVerdict {
        if code != SIGKILL_CODE {
            return OomVerdict::OomNone;
        }
        // The kernel logs a kill before its victim dies.
        self.drain();
        let state = self.state.lock();
        let mut since = state.killed.iter().filter(|(_, at)| *at > before);
        if since.any(|(killed, _)| *killed == pid) {
            OomVerdict::OomHighConfidence
        } else if state.count > before {
            OomVerdict::OomLowConfidence
        } else {
            OomVerdict::OomNone
        }
    }

    /// Follows the log, so that a kill counts against processes that ran at its
    /// time and not against later ones.
    pub(crate) async fn follow(&self) -> std::io::Result<()> {
        let Some(log) = &self.log else {
            return Ok(());
        };
        let readiness = Readiness::new(Arc::clone(log))?;
        loop {
            let mut ready = readiness.readable().await?;
            if self.drain() {
                ready.clear_ready();
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Reads new records; false when there may be more.
    fn drain(&self) -> bool {
        let Some(log) = &self.log else {
            return true;
        };
        let mut record = [0; RECORD_LEN_MAX];
        for _ in 0..RECORDS_PER_TURN {
            match rustix::io::read(log, &mut record) {
                Ok(len) => {
                    let record = record.get(..len).unwrap_or_default();
                    self.note(record);
                }
                // Records that were overwritten before they were read.
                Err(Errno::PIPE) => {}
                Err(_) => return true,
            }
        }
        false
    }

    fn note(&self, record: &[u8]) {
        let Some(pid) = killed_pid(record) else {
            return;
        };
        let mut state = self.state.lock();
        state.count += 1;
        let count = state.count;
        state.killed.push_back((pid, count));
        if state.killed.len() > KILLED_MAX {
            state.killed.pop_front();
        }
    }
}

/// The victim that a record of the kernel's own tells of, as in
/// `3,817,123456,-;Memory cgroup out of memory: Killed process 97 (python3)`.
fn killed_pid(record: &[u8]) -> Option<i32> {
    const SAYS: &str = "Killed process ";
    let record = std::str::from_utf8(record).ok()?;
    let (prefix, message) = record.split_once(';')?;
    let priority: u32 = prefix.split(',').next()?.parse().ok()?;
    // The bits above three name who wrote it; the kernel is 0.
    if priority > 7 || !message.contains("ut of memory") {
        return None;
    }
    let (_, victim) = message.split_once(SAYS)?;
    let digits = victim.split(|byte: char| !byte.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_kills_only() {
        let cases: [(&[u8], Option<i32>); 7] = [
            (
                b"3,817,12,-;Memory cgroup out of memory: Killed process 97 (python3) x\n",
                Some(97),
            ),
            (
                b"3,817,12,-,caller=T1;Out of memory: Killed process 12 (a b)",
                Some(12),
            ),
            (b"11,817,12,-;Out of memory: Killed process 12 (a)", None),
            (b"3,817,12,-;Out of memory: Killed process x", None),
            (b"3,817,12,-;Killed process 12 (a)", None),
            (b"\xff\xfe", None),
            (b"", None),
        ];
        for (record, expected) in cases {
            let text = String::from_utf8_lossy(record);
            assert_eq!(killed_pid(record), expected, "{text}");
        }
    }

    #[test]
    fn blames_memory_only_for_kills_in_a_life() {
        let kills = KernelKills::default();
        kills.note(b"3,1,1,-;Out of memory: Killed process 7 (x)");
        let before = kills.count();
        let verdict = |pid, code, before| kills.verdict(pid, code, before);
        assert_eq!(verdict(7, 137, before), OomVerdict::OomNone);
        assert_eq!(verdict(7, 137, 0), OomVerdict::OomHighConfidence);
        assert_eq!(verdict(8, 137, 0), OomVerdict::OomLowConfidence);
        assert_eq!(verdict(7, 1, 0), OomVerdict::OomNone);
    }
}
