//! Documents that must be there, and that must not promise what is not.

use std::path::Path;

use clap::CommandFactory;

use super::{Finding, Source};

const REQUIRED: [&str; 5] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "SPECIFICATION.md",
];

/// Generated from the program's own definitions, so what is here exists.
const COMMAND_REFERENCE: &str = "docs/reference/cli.md";
/// What starts a command of ours in a document.
const STARTS: [&str; 4] = [
    "cargo run --release -- ",
    "cargo run -- ",
    "sudo tombolo ",
    "tombolo ",
];
const TASK_START: &str = "cargo xtask ";

const MEND_REQUIRED: &str = "write it; a stranger looks for it";
const MEND_COMMAND: &str = "correct the document, or build the command";
const MEND_LINK: &str = "correct the link";

pub(super) fn check(root: &Path, sources: &[Source]) -> Vec<Finding> {
    let exists = |path: &Path| root.join(path).exists();
    let text_of = |path: &str| {
        let found = sources.iter().find(|source| source.path == Path::new(path));
        found.map(|source| source.text.as_str()).unwrap_or_default()
    };
    let mut findings: Vec<Finding> = REQUIRED
        .iter()
        .filter(|path| !exists(Path::new(path)))
        .map(|path| Finding {
            path: path.into(),
            line: 0,
            what: "is missing".to_owned(),
            mend: MEND_REQUIRED,
        })
        .collect();
    let reference = text_of(COMMAND_REFERENCE);
    for source in sources.iter().filter(|source| source.has_extension("md")) {
        findings.extend(check_links(source, &exists));
        findings.extend(check_commands(source, reference));
    }
    findings
}

fn check_links(source: &Source, exists: &dyn Fn(&Path) -> bool) -> Vec<Finding> {
    let directory = source.path.parent().unwrap_or(Path::new(""));
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for rest in line.split("](").skip(1) {
            let link = rest.split([')', '#', ' ']).next().unwrap_or_default();
            let is_file = !link.is_empty() && !link.contains(':');
            if is_file && !exists(&normal(&directory.join(link))) {
                let what = format!("links to {link}, which does not exist");
                findings.push(source.finding(index + 1, what, MEND_LINK));
            }
        }
    }
    findings
}

/// The path without `..`, as a reader of the document follows it.
fn normal(path: &Path) -> std::path::PathBuf {
    let mut parts: Vec<&std::ffi::OsStr> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                parts.pop();
            }
            std::path::Component::Normal(name) => parts.push(name),
            _ => (),
        }
    }
    parts.iter().collect()
}

/// Commands in code blocks: tasks against this program, the rest against the
/// generated reference.
fn check_commands(source: &Source, reference: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut in_code = false;
    for (index, line) in source.text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("```") {
            in_code = !in_code;
            continue;
        }
        let command = line.strip_prefix("$ ").unwrap_or(line);
        if let Some(unknown) = unknown_command(command, reference).filter(|_| in_code) {
            let what = format!("`{unknown}` is not a command");
            findings.push(source.finding(index + 1, what, MEND_COMMAND));
        }
    }
    findings
}

fn unknown_command(command: &str, reference: &str) -> Option<String> {
    if let Some(rest) = command.strip_prefix(TASK_START) {
        let task = first_word(rest)?;
        let tasks = crate::Arguments::command();
        let known = tasks
            .get_subcommands()
            .any(|known| known.get_name() == task);
        return (!known).then(|| format!("{TASK_START}{task}"));
    }
    let rest = STARTS
        .iter()
        .find_map(|start| command.strip_prefix(start))?;
    let name = format!("tombolo {}", first_word(rest)?);
    let known = reference.lines().any(|line| {
        let title = line.trim_start_matches(['#', ' ']).trim_matches('`');
        title == name || title.starts_with(&format!("{name} "))
    });
    (!known).then_some(name)
}

/// The first word that names a command: not an option.
fn first_word(rest: &str) -> Option<&str> {
    let word = rest.split_whitespace().next()?;
    word.starts_with(|c: char| c.is_ascii_lowercase())
        .then_some(word)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::tidy::summary;

    const REFERENCE: &str = "# Commands\n## `tombolo run`\n### `tombolo sandbox create`\n";

    fn document(path: &str, text: &str) -> Source {
        Source {
            path: PathBuf::from(path),
            text: text.to_owned(),
        }
    }

    fn check_command(command: &str, expected: &[&str]) {
        let source = document("README.md", &format!("```\n{command}\n```\n{command}\n"));
        assert_eq!(summary(&check_commands(&source, REFERENCE)), expected);
    }

    #[test]
    fn documented_commands_exist() {
        check_command("cargo xtask test --ring core", &[]);
        check_command(
            "cargo xtask fly",
            &["2: `cargo xtask fly` is not a command"],
        );
        check_command("cargo run --release -- run -- uname -a", &[]);
        check_command("$ tombolo sandbox list", &[]);
        check_command("tombolo fly", &["2: `tombolo fly` is not a command"]);
        check_command("tombolo --help", &[]);
        check_command("export A=tombolo", &[]);
    }

    #[test]
    fn links_lead_somewhere() {
        let exists = |path: &Path| path == Path::new("docs/a.md");
        let text = "[a](../a.md#part) [b](https://example.com) [c](#here)\n[d](b.md)\n";
        let source = document("docs/reference/c.md", text);
        let found = summary(&check_links(&source, &exists));
        assert_eq!(found, ["2: links to b.md, which does not exist"]);
    }
}
