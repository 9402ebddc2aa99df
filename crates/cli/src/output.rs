//! What the command prints: data on standard output, words for people on
//! standard error. Nothing else in this crate prints.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::Outcome;

/// Writes a line of data. A reader that has gone away is not our failure.
pub(crate) fn data(line: &str) -> Outcome {
    self::line(line).map(drop)
}

/// Writes one of many lines. Answers whether anybody reads on.
pub(crate) fn line(line: &str) -> Outcome<bool> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes a value as JSON, for programs.
pub(crate) fn json<T: Serialize>(value: &T) -> Outcome {
    data(&serde_json::to_string_pretty(value)?)
}

/// Tells a person something. A person who has gone away is not our failure:
/// `eprintln!` would panic where the window was closed.
pub(crate) fn tell(line: &str) {
    if let Err(error) = writeln!(std::io::stderr().lock(), "{line}") {
        tracing::trace!(%error, "there is nobody to tell");
    }
}

pub(crate) fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Writes rows under a head, aligned and without borders. Cells come from
/// sandboxes and their labels, so what a terminal would obey is escaped.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) -> Outcome {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(head.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    data(&lines.join("\n"))
}

/// Text without control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_from_a_sandbox() {
        assert_eq!(printable("a\u{1b}[2Jé\n"), "a\\u{1b}[2Jé\\n");
    }
}
