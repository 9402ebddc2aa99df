//! `cargo xtask tidy`: the rules of the house that no other tool holds.
//!
//! Each check looks at one thing and answers with findings: where, what, and
//! the mend. Checks are pure functions of what they are given, so each has a
//! test with an offending example.

mod documents;
mod files;
mod layers;
mod rust;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::bail;

use crate::tools::{say, workspace};

/// Directories that hold nothing of ours.
const NOT_OURS: [&str; 5] = [".git", "target", "node_modules", "__pycache__", ".venv"];
/// A larger file is an image or an archive, not something we wrote.
const TEXT_LEN_MAX: u64 = 4 << 20;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: PathBuf,
    /// Zero when the finding is about the file as a whole.
    pub(crate) line: usize,
    pub(crate) what: String,
    pub(crate) mend: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}\n  mend: {}", self.what, self.mend)
    }
}

/// A text file of the workspace; the path is relative to the root.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn finding(
        &self,
        line: usize,
        what: impl Into<String>,
        mend: &'static str,
    ) -> Finding {
        Finding {
            path: self.path.clone(),
            line,
            what: what.into(),
            mend,
        }
    }

    pub(crate) fn has_extension(&self, extension: &str) -> bool {
        self.path
            .extension()
            .is_some_and(|found| found == extension)
    }

    pub(crate) fn name(&self) -> &str {
        self.path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
    }
}

/// `cargo xtask tidy`.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = workspace();
    let mut sources = Vec::new();
    collect(&root, Path::new(""), &mut sources)?;
    sources.sort_by(|a, b| a.path.cmp(&b.path));

    let mut findings = layers::check(&root)?;
    for source in &sources {
        findings.extend(files::check(source));
        if source.has_extension("rs") {
            findings.extend(rust::check(source));
        }
    }
    findings.extend(documents::check(&root, &sources));
    for finding in &findings {
        say(&finding.to_string());
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    say(&format!("tidy: {} files are in order", sources.len()));
    Ok(())
}

fn collect(root: &Path, relative: &Path, sources: &mut Vec<Source>) -> anyhow::Result<()> {
    for entry in fs_err::read_dir(root.join(relative))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let path = relative.join(entry.file_name());
        if kind.is_dir() && !NOT_OURS.iter().any(|name| entry.file_name() == *name) {
            collect(root, &path, sources)?;
        } else if kind.is_file() && entry.metadata()?.len() <= TEXT_LEN_MAX {
            // What is not text is not for us to judge.
            if let Ok(text) = String::from_utf8(fs_err::read(entry.path())?) {
                sources.push(Source { path, text });
            }
        }
    }
    Ok(())
}

/// For the tests of the checks: what each finding says, with its line.
#[cfg(test)]
fn summary(findings: &[Finding]) -> Vec<String> {
    findings
        .iter()
        .map(|finding| format!("{}: {}", finding.line, finding.what))
        .collect()
}
