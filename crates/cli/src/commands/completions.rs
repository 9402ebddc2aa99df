//! `tombolo completions`.

use clap_complete::generate;

use crate::cli::{self, CompletionsArgs};
use crate::failure::Outcome;
use crate::output;

pub(super) fn completions(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    generate(args.shell, &mut cli::definition(), "tombolo", &mut script);
    output::data(String::from_utf8(script)?.trim_end())
}
