//! The project's own tools: `cargo xtask test`, `test-kvm`, `lint`, `tidy`,
//! `deny`.
//!
//! What would be a shell script elsewhere is here, so that it is compiled,
//! linted and tested like everything else.

mod fuzz;
mod lint;
mod test;
mod test_kvm;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tools for working on Tombolo.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set up whatever is missing, then run the lints and every ring of tests.
    Test(test::Arguments),
    /// Run the engine's tests on KVM, inside an emulated machine that has it.
    TestKvm(test_kvm::Arguments),
    /// Run parsers with generated input, for as long as wanted.
    Fuzz(fuzz::Arguments),
    /// Check formatting, clippy, documentation, dependencies and tidiness.
    Lint,
    /// Check what no other tool does: layers, lengths, documents, leftovers.
    Tidy,
    /// Check licences and sources of the dependencies with cargo-deny.
    Deny,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Test(arguments) => test::run(&arguments),
        Command::TestKvm(arguments) => test_kvm::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Lint => lint::run(),
        Command::Tidy => tidy::run(),
        Command::Deny => lint::deny(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tools::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
