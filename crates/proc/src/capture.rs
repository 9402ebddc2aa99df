//! Reading what a program writes: bounded, and line by line for whoever asks.

use std::{io, process::ExitStatus};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How many of the last lines of standard error an error carries.
const TAIL_LINES: usize = 12;
/// A longer line is cut before it is shown or handed to a listener.
const LINE_LIMIT: usize = 400;
const READ_LEN: usize = 16 * 1024;

/// What a program wrote and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// How the program ended.
    pub status: ExitStatus,
    /// Standard output, at most the command's limit.
    pub stdout: Vec<u8>,
    /// Standard error, at most the command's limit.
    pub stderr: Vec<u8>,
    /// Whether the program wrote more than the limit to either stream; the
    /// oldest bytes are kept of standard output, the newest of standard error.
    pub truncated: bool,
}

impl Output {
    /// Standard output as text, invalid UTF-8 replaced, without the last line's end.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// The last lines of standard error, each cut to a bounded length and with
    /// control characters made harmless for a terminal.
    pub fn stderr_tail(&self) -> String {
        last_lines(&self.stderr)
    }
}

pub(crate) fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let first = lines.len().saturating_sub(TAIL_LINES);
    let shown: Vec<String> = lines[first..].iter().map(|line| printable(line)).collect();
    shown.join("\n")
}

fn printable(line: &str) -> String {
    let last_rewrite = line.trim_end().rsplit('\r').next().unwrap_or_default();
    last_rewrite
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LINE_LIMIT)
        .collect()
}

/// Which end of a stream is kept when it is longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    First,
    Last,
}

/// One captured stream.
#[derive(Debug)]
pub(crate) struct Captured {
    bytes: Vec<u8>,
    line: Vec<u8>,
    keep: Keep,
    limit: usize,
    truncated: bool,
}

impl Captured {
    pub(crate) fn new(keep: Keep, limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            line: Vec::new(),
            keep,
            limit,
            truncated: false,
        }
    }

    /// Reads to the end. The caller may drop the future at any time; what was
    /// read until then stays.
    pub(crate) async fn fill(
        &mut self,
        stream: Option<impl AsyncRead + Unpin>,
        on_line: &(dyn Fn(&str) + Sync),
    ) -> io::Result<()> {
        let Some(mut stream) = stream else {
            return Ok(());
        };
        let mut chunk = vec![0; READ_LEN];
        loop {
            let read = stream.read(&mut chunk).await?;
            if read == 0 {
                break;
            }
            self.push(&chunk[..read], on_line);
        }
        self.end_line(on_line);
        Ok(())
    }

    pub(crate) fn into_parts(self) -> (Vec<u8>, bool) {
        (self.bytes, self.truncated)
    }

    fn push(&mut self, chunk: &[u8], on_line: &(dyn Fn(&str) + Sync)) {
        for piece in chunk.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let room = LINE_LIMIT.saturating_sub(self.line.len()).min(piece.len());
            self.line.extend_from_slice(&piece[..room]);
            if piece.ends_with(b"\n") || piece.ends_with(b"\r") {
                self.end_line(on_line);
            }
        }
        self.keep_bytes(chunk);
    }

    fn end_line(&mut self, on_line: &(dyn Fn(&str) + Sync)) {
        let line = printable(&String::from_utf8_lossy(&self.line));
        self.line.clear();
        if !line.trim().is_empty() {
            on_line(line.trim_end());
        }
    }

    fn keep_bytes(&mut self, chunk: &[u8]) {
        match self.keep {
            Keep::First => {
                let room = self.limit.saturating_sub(self.bytes.len()).min(chunk.len());
                self.bytes.extend_from_slice(&chunk[..room]);
                self.truncated |= room < chunk.len();
            }
            Keep::Last => {
                self.bytes.extend_from_slice(chunk);
                let surplus = self.bytes.len().saturating_sub(self.limit);
                self.bytes.drain(..surplus);
                self.truncated |= surplus > 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn check(keep: Keep, limit: usize, chunks: &[&str], bytes: &str, truncated: bool) {
        let mut captured = Captured::new(keep, limit);
        for chunk in chunks {
            captured.push(chunk.as_bytes(), &|_| ());
        }
        let (kept, cut) = captured.into_parts();
        assert_eq!((kept.as_slice(), cut), (bytes.as_bytes(), truncated));
    }

    #[test]
    fn keeps_the_right_end_at_the_limit_and_beyond() {
        check(Keep::First, 4, &["ab", "cd"], "abcd", false);
        check(Keep::First, 4, &["ab", "cde"], "abcd", true);
        check(Keep::Last, 4, &["ab", "cd"], "abcd", false);
        check(Keep::Last, 4, &["ab", "cde"], "bcde", true);
    }

    #[test]
    fn a_listener_gets_whole_lines_cut_to_the_limit() {
        let seen = Mutex::new(Vec::new());
        let listen = |line: &str| seen.lock().unwrap().push(line.to_owned());
        let mut captured = Captured::new(Keep::Last, 10);
        let long = "x".repeat(LINE_LIMIT + 1);
        for chunk in ["one\ntw", "o\n\n50%\r100%\n", &long, "\n\u{1b}[1mbold"] {
            captured.push(chunk.as_bytes(), &listen);
        }
        captured.end_line(&listen);
        let cut = "x".repeat(LINE_LIMIT);
        let expected = ["one", "two", "50%", "100%", &cut, " [1mbold"];
        assert_eq!(seen.into_inner().unwrap(), expected);
    }

    #[test]
    fn the_tail_is_the_last_lines_that_say_something() {
        let many: Vec<String> = (0..20).map(|n| format!("line {n}")).collect();
        let tail = last_lines(format!("{}\n\n \n", many.join("\n")).as_bytes());
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert_eq!(tail.lines().last(), Some("line 19"));
        assert_eq!(last_lines(b""), "");
    }
}
