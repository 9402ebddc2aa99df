//! How Tombolo talks to people: error chains with a next step, exit codes,
//! and a log that a noisy guest cannot flood.

mod exit;
mod limited;
mod logging;
mod report;

pub use exit::ExitCode;
pub use limited::{LogLimit, LogPermit};
pub use logging::{LogFormat, LogSetupError, init_logging};
pub use report::{Hinted, Report, WithHint, in_one_line};
#[doc(hidden)]
pub use tracing;
