//! The seam to the node crate.

use std::ffi::OsString;

use tombolo_diag::ExitCode;

use super::NodeLaunch;
use crate::config::Settings;
use crate::failure::{Failure, Outcome};
use crate::state::StateDir;

/// Probes the machine and makes the default template, if that is not done.
#[expect(clippy::unused_async, reason = "the node crate runs here")]
pub(crate) async fn prepare(
    _state: &StateDir,
    _settings: &Settings,
    _progress: &dyn Fn(&str),
) -> Outcome {
    Ok(())
}

/// Runs the node until it is told to end.
#[expect(clippy::unused_async, reason = "the node crate runs here")]
pub(super) async fn run(launch: NodeLaunch, ready: impl FnOnce()) -> Outcome {
    drop(ready);
    Err(Failure::message(
        ExitCode::Internal,
        format!("this build has no node for {}", launch.socket.display()),
    ))
}

/// Confines this process and becomes a virtual machine.
pub(super) fn jail(_args: &[OsString]) -> Outcome {
    Err(Failure::message(
        ExitCode::Internal,
        "this build has no jail",
    ))
}
