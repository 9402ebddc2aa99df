//! The one way to start a subprocess.
//!
//! Every program that Tombolo starts says where it runs, what it sees of the
//! environment and which descriptors it gets; nothing is inherited by
//! accident. A [`Command`] starts in `/` with an empty standard input and the
//! variables of [`BASE_ENVIRONMENT`] only; whatever else a program needs is
//! named at the call. Output is captured up to a limit and a failure carries
//! the last lines the program wrote, because those are what a person needs.
//!
//! This crate depends on nothing else of ours and is the only one that may
//! call `Command::new` of the standard library or of Tokio.

mod capture;
mod command;
mod detached;
mod error;

pub use capture::Output;
pub use command::{BASE_ENVIRONMENT, Command, OUTPUT_LIMIT};
pub use detached::Detached;
pub use error::RunError;
