//! `tombolo bench`.
use crate::cli::BenchArgs;
use crate::context::Context;
use crate::failure::Outcome;

pub(crate) fn bench(_context: &Context, _args: &BenchArgs) -> Outcome {
    Ok(())
}
