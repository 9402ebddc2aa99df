//! Rules for every text file: no stray scripts, no registries by name, no
//! promises without a reason.

use super::{Finding, Source};

/// Hosts that packages come from. Which one is used is the machine's and the
/// person's configuration, never ours. Written in halves so that this file
/// does not contain what it forbids.
const REGISTRY_HOSTS: [(&str, &str); 12] = [
    ("py", "pi.org"),
    ("pythonho", "sted.org"),
    ("npm", "js.org"),
    ("npm", "js.com"),
    ("index.crates", ".io"),
    ("static.crates", ".io"),
    ("deb.de", "bian.org"),
    ("security.de", "bian.org"),
    ("archive.ubu", "ntu.com"),
    ("ghcr", ".io"),
    ("docker", ".io"),
    ("js", "r.io"),
];

/// Notes to oneself, in halves likewise.
const NOTES: [(&str, &str); 3] = [("TO", "DO"), ("FIX", "ME"), ("XX", "X")];
const REASON_WORDS_MIN: usize = 3;

/// Written by tools, from what we wrote elsewhere.
const GENERATED: [&str; 3] = ["Cargo.lock", "package-lock.json", "LICENSE"];
/// The one script: what a machine without anything but bash starts with.
const SCRIPT: &str = ".ci/run";
const SHELLS: [&str; 5] = ["sh", "bash", "dash", "ksh", "zsh"];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    if GENERATED.contains(&source.name()) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    findings.extend(check_script(source));
    for (index, line) in source.text.lines().enumerate() {
        findings.extend(check_host(source, index + 1, line));
        findings.extend(check_note(source, index + 1, line));
    }
    findings
}

fn check_script(source: &Source) -> Option<Finding> {
    let first = source.text.lines().next().unwrap_or_default();
    let interpreter = first
        .strip_prefix("#!")
        .and_then(|rest| rest.split(['/', ' ']).rfind(|word| !word.starts_with('-')));
    let is_shell = source.has_extension("sh")
        || interpreter.is_some_and(|interpreter| SHELLS.contains(&interpreter));
    let allowed = source.path.to_str() == Some(SCRIPT);
    (is_shell && !allowed).then(|| {
        let mend = "write it in Rust, as a task of xtask";
        source.finding(1, "is a shell script", mend)
    })
}

fn check_host(source: &Source, line: usize, text: &str) -> Option<Finding> {
    let lower = text.to_ascii_lowercase();
    REGISTRY_HOSTS
        .iter()
        .map(|(start, end)| format!("{start}{end}"))
        .find(|host| contains_host(&lower, host))
        .map(|host| {
            let mend = "leave the choice of a registry to the tool's own configuration";
            source.finding(line, format!("names the registry {host}"), mend)
        })
}

/// Whether a line has a host, and not only a longer word that ends so.
fn contains_host(line: &str, host: &str) -> bool {
    line.match_indices(host).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + host.len()..].chars().next();
        let joins = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !before.is_some_and(joins) && !after.is_some_and(joins)
    })
}

fn check_note(source: &Source, line: usize, text: &str) -> Option<Finding> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (start, end) in NOTES {
        let note = format!("{start}{end}");
        for (at, _) in text.match_indices(&note) {
            let before = text[..at].chars().next_back();
            let rest = &text[at + note.len()..];
            if before.is_some_and(is_word) || rest.chars().next().is_some_and(is_word) {
                continue;
            }
            let reason = rest.strip_prefix(':').unwrap_or_default();
            if reason.split_whitespace().count() < REASON_WORDS_MIN {
                let mend = "do it, or say after a colon why it is not done";
                return Some(source.finding(line, format!("{note} without a reason"), mend));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::tidy::summary;

    fn check_text(path: &str, text: &str, expected: &[&str]) {
        let source = Source {
            path: PathBuf::from(path),
            text: text.to_owned(),
        };
        assert_eq!(summary(&check(&source)), expected, "{path}: {text}");
    }

    #[test]
    fn shell_scripts_are_tasks() {
        let found = ["1: is a shell script"];
        check_text("tools/a.sh", "echo", &found);
        check_text("tools/a", "#!/bin/bash\n", &found);
        check_text("tools/a", "#!/usr/bin/env bash\n", &found);
        check_text("tools/a", "#!/bin/sh -e\n", &found);
        check_text(".ci/run", "#!/usr/bin/env bash\n", &[]);
        check_text("tools/a.py", "#!/usr/bin/env python3\n", &[]);
        check_text("a.rs", "#![expect(x)]\n", &[]);
    }

    #[test]
    fn registries_are_configuration() {
        let host = format!("{}.de{}", "deb", "bian.org");
        let what = format!("2: names the registry {host}");
        check_text("a.toml", &format!("\nurl = 'http://{host}/x'"), &[&what]);
        check_text(
            "a.toml",
            &format!("\nurl = '{}'", host.to_uppercase()),
            &[&what],
        );
        check_text("a.toml", &format!("{host}ization, not-{host}"), &[]);
        check_text("Cargo.lock", &host, &[]);
    }

    #[test]
    fn notes_need_reasons() {
        let (todo, xxx) = (format!("TO{}", "DO"), format!("XX{}", "X"));
        let what = format!("1: {todo} without a reason");
        check_text("a.rs", &format!("// {todo}"), &[&what]);
        check_text("a.rs", &format!("// {todo}: later"), &[&what]);
        check_text(
            "a.rs",
            &format!("// {todo}: waits for a kernel that can"),
            &[],
        );
        check_text("a.rs", &format!("MY_{todo}S, /tmp/a{xxx}{xxx}"), &[]);
    }
}
