//! The only place that waits for children: those started here, and as PID 1
//! every orphan of the guest.

use rustix::process::{WaitOptions, WaitStatus, wait};
use tokio::signal::unix::Signal;

use super::Processes;

/// Ends taken before other work gets a turn.
const ENDS_PER_TURN: usize = 128;

/// Takes every child's end, for ever. `child_signals` must have been listened
/// to since before the first child.
pub(crate) async fn reap_forever(processes: &Processes, mut child_signals: Signal) {
    while child_signals.recv().await.is_some() {
        while !reap_some(processes) {
            tokio::task::yield_now().await;
        }
    }
}

/// Takes ends that are there; false when there may be more.
fn reap_some(processes: &Processes) -> bool {
    for _ in 0..ENDS_PER_TURN {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let (code, signal) = code_and_signal(status);
                processes.end(pid.as_raw_pid(), code, signal);
            }
            Ok(None) | Err(_) => return true,
        }
    }
    false
}

fn code_and_signal(status: WaitStatus) -> (i32, i32) {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code, 0),
        (None, Some(signal)) => (128 + signal, signal),
        (None, None) => (128, 0),
    }
}
