//! The children of a supervisor that was killed. They end by themselves when
//! they notice, the server after its last answers; until then they hold the
//! address and the sockets that their successors need.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::child;
use crate::context::Context;
use crate::failure::Outcome;

/// How long they may take before they are killed.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often to look whether they are gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until nothing of an earlier supervisor runs.
pub(super) async fn outlast(context: &Context) -> Outcome {
    let Ok(Some(earlier)) = context.state.running() else {
        // Nothing written, or nothing that can be understood.
        return Ok(());
    };
    let deadline = Instant::now() + PATIENCE;
    let children = [earlier.server_pid, earlier.node_pid];
    for pid in children.into_iter().chain(earlier.egress_pid) {
        while is_child_of_ours(pid) {
            if Instant::now() >= deadline {
                kill(pid);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// Process ids are used again, so the number alone proves nothing.
fn is_child_of_ours(pid: u32) -> bool {
    // A process that has just ended has no command line any more.
    fs_err::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.starts_with(child::PROGRAM.as_bytes()))
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, Signal::KILL)
    {
        tracing::debug!(%error, "it has just ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_children_are_waited_for() {
        assert!(!is_child_of_ours(std::process::id()));
        assert!(!is_child_of_ours(u32::MAX));
    }
}
