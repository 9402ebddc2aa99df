//! The reference pages and the `OpenAPI` document, which are made from the code.
//! A test compares them with the files that are checked in.

use std::fmt::Write as _;

use crate::cli::{self, DocsArgs, DocsPage};
use crate::config;
use crate::failure::Outcome;
use crate::output;

pub(super) fn docs(args: &DocsArgs) -> Outcome {
    output::data(page(args.page).trim_end())
}

fn page(page: DocsPage) -> String {
    match page {
        DocsPage::Cli => cli_page(),
        DocsPage::Configuration => config::reference::page(),
        DocsPage::Openapi => tombolo_server::openapi_document(),
    }
}

fn cli_page() -> String {
    let mut page = String::from(
        "# The command line\n\n\
         Made by `tombolo docs cli`; do not edit.\n\n\
         Data goes to standard output, words for people to standard error. Whatever prints data has\n\
         `--json`.\n\n\
         | exit code | meaning |\n|---|---|\n\
         | 0 | success |\n\
         | 1 | it was understood and it failed |\n\
         | 64 | the command line is wrong |\n\
         | 69 | a server or a node that is needed is not there |\n\
         | 70 | a defect of Tombolo |\n\
         | 71 | the operating system refused something, or lacks it |\n\
         | 75 | a limit is reached; try again later |\n\
         | 77 | not allowed: no token, a wrong token, not root |\n\
         | 78 | the configuration file is wrong |\n\n\
         `tombolo run` and `tombolo sandbox exec` pass on the exit code of their command (128 and the\n\
         number of the signal that killed it), and 124 when `--timeout` passed. A command that is not\n\
         there is 127, and one that may not be executed 126.\n",
    );
    let mut definition = cli::definition()
        .term_width(cli::HELP_WIDTH)
        .disable_help_flag(false);
    definition.build();
    write_command(&mut page, &mut definition, "");
    page
}

fn write_command(page: &mut String, command: &mut clap::Command, parent: &str) {
    let name = format!("{parent}{}", command.get_name());
    let help = command.render_long_help().to_string();
    let lines: Vec<_> = help.lines().map(str::trim_end).collect();
    let written = write!(
        page,
        "\n## `{name}`\n\n```text\n{}\n```\n",
        lines.join("\n").trim_end()
    );
    debug_assert!(written.is_ok(), "a String takes everything");
    let parent = format!("{name} ");
    for child in command.get_subcommands_mut() {
        if !child.is_hide_set() && child.get_name() != "help" {
            write_command(page, child, &parent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_are_current() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        for (kind, name, path) in [
            (DocsPage::Cli, "cli", "docs/reference/cli.md"),
            (
                DocsPage::Configuration,
                "configuration",
                "docs/reference/configuration.md",
            ),
            (DocsPage::Openapi, "openapi", "openapi/tombolo.json"),
        ] {
            let written = fs_err::read_to_string(format!("{root}/{path}")).unwrap_or_default();
            assert!(
                written.trim_end() == page(kind).trim_end(),
                "{path} is stale: write it anew by \"cargo run -- docs {name} > {path}\""
            );
        }
    }
}
