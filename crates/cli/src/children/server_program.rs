//! The seam to the server crate.

use std::net::SocketAddr;

use tombolo_diag::ExitCode;

use super::ServerLaunch;
use crate::failure::{Failure, Outcome};

/// Runs the server until it is told to end. `ready` hears where it listens.
#[expect(clippy::unused_async, reason = "the server crate runs here")]
pub(super) async fn run(launch: ServerLaunch, ready: impl FnOnce(SocketAddr)) -> Outcome {
    drop(ready);
    Err(Failure::message(
        ExitCode::Internal,
        format!("this build has no server for {}", launch.listen),
    ))
}
