//! What a VM leaves to be read after its end: QEMU's complaints and the guest's
//! console. Each is a file in memory of fixed length, because a guest can make
//! both go on without end: what does not fit any more is dropped.
//!
//! They are the standard output and the standard error of QEMU, so a node that
//! takes over a VM finds them.

use rustix::fs::{MemfdFlags, SealFlags};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// The most that is kept of what QEMU itself says.
const EMULATOR_LEN: usize = 16 * 1024;
/// The same of the guest's console: the whole boot of a kernel that tells
/// everything, and what a restored one says.
const CONSOLE_LEN: usize = 256 * 1024;
/// The part of each that is told of a VM which ended.
const TOLD_LEN_MAX: usize = 2048;
/// Where a kernel says what it dies of, before a trace of its calls.
const PANIC: &str = "Kernel panic";

/// What one VM has written so far.
#[derive(Debug)]
pub(crate) struct Words {
    emulator: std::fs::File,
    console: std::fs::File,
}

/// The ends that the VM's process is given.
#[derive(Debug)]
pub(crate) struct Writers {
    pub(crate) emulator: OwnedFd,
    pub(crate) console: OwnedFd,
}

impl Words {
    pub(crate) fn new() -> io::Result<(Self, Writers)> {
        let words = Self {
            emulator: bounded(EMULATOR_LEN)?,
            console: bounded(CONSOLE_LEN)?,
        };
        let writers = Writers {
            emulator: words.emulator.try_clone()?.into(),
            console: words.console.try_clone()?.into(),
        };
        Ok((words, writers))
    }

    /// Those of a process that an earlier run started.
    pub(crate) fn of_process(pid: i32) -> io::Result<Self> {
        let open = |number: u8| std::fs::File::open(format!("/proc/{pid}/fd/{number}"));
        Ok(Self {
            emulator: open(2)?,
            console: open(1)?,
        })
    }

    /// What QEMU complained about.
    pub(crate) fn emulator(&self) -> String {
        read(&self.emulator, EMULATOR_LEN)
    }

    /// What the guest wrote on its console: its words, to be escaped before a
    /// person's terminal sees them.
    pub(crate) fn console(&self) -> String {
        read(&self.console, CONSOLE_LEN)
    }
}

fn bounded(len: usize) -> io::Result<std::fs::File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = std::fs::File::from(rustix::fs::memfd_create(c"qemu-output", flags)?);
    file.set_len(len as u64)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(file)
}

fn read(file: &std::fs::File, len: usize) -> String {
    let mut bytes = vec![0; len];
    let count = file.read_at(&mut bytes, 0).unwrap_or(0);
    bytes.truncate(count);
    let text = String::from_utf8_lossy(&bytes);
    text.trim_end_matches('\0').trim_end().to_owned()
}

/// How a VM's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code: zero when its guest switched itself off, or on again.
    Code(i32),
    /// By this signal, which was not ours. SIGKILL is the kernel's when the
    /// VM's control group is out of memory.
    Signal(i32),
}

/// What is known of a VM's end that nobody asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastWords {
    /// None if the process was not this one's child.
    pub exit: Option<Exit>,
    /// The last that QEMU complained about.
    pub emulator: String,
    /// The last that the guest wrote on its console. Anything may be in it.
    pub console: String,
}

impl LastWords {
    pub(crate) fn new(exit: Option<Exit>, words: Option<&Words>) -> Self {
        let told = |text: fn(&Words) -> String| words.map(|words| last_part(&text(words)));
        Self {
            exit,
            emulator: told(Words::emulator).unwrap_or_default(),
            console: told(Words::console).unwrap_or_default(),
        }
    }
}

/// The end of a text, or what is around the last panic in it.
fn last_part(text: &str) -> String {
    let panic = text.rfind(PANIC);
    let end = panic.map_or(text.len(), |at| text.len().min(at + TOLD_LEN_MAX / 2));
    let end = text.floor_char_boundary(end);
    let start = text.ceil_char_boundary(end.saturating_sub(TOLD_LEN_MAX));
    text.get(start..end).unwrap_or_default().to_owned()
}

/// In one line, the guest's words escaped.
impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exit {
            Some(Exit::Code(code)) => write!(f, "exit code {code}")?,
            Some(Exit::Signal(signal)) => write!(f, "signal {signal}")?,
            None => f.write_str("exit unknown")?,
        }
        for (speaker, words) in [("QEMU", &self.emulator), ("console", &self.console)] {
            if !words.is_empty() {
                write!(f, "; {speaker}: {}", words.escape_debug())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_does_not_fit_is_dropped() {
        let (words, writers) = Words::new().unwrap();
        let mut emulator = std::fs::File::from(writers.emulator);
        emulator.write_all(b"no room\n").unwrap();
        let mut console = std::fs::File::from(writers.console);
        console.write_all(&vec![b'x'; CONSOLE_LEN]).unwrap();
        assert_eq!(
            console.write(b"y").unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
        assert_eq!(words.emulator(), "no room");
        assert_eq!(words.console(), "x".repeat(CONSOLE_LEN));
    }

    #[test]
    fn an_end_is_told_in_one_line_that_is_bounded() {
        let (words, writers) = Words::new().unwrap();
        let mut console = std::fs::File::from(writers.console);
        console.write_all("é".repeat(4000).as_bytes()).unwrap();
        console.write_all(b"\x1b[31mthe end\r\n").unwrap();
        let told = LastWords::new(Some(Exit::Signal(31)), Some(&words)).to_string();
        assert!(told.starts_with("signal 31; console: é"), "{told}");
        assert!(told.ends_with("\\u{1b}[31mthe end"), "{told}");
        assert!(told.len() < TOLD_LEN_MAX + 100, "{}", told.len());
        assert_eq!(LastWords::default().to_string(), "exit unknown");
    }

    #[test]
    fn a_panic_is_told_rather_than_the_trace_after_it() {
        let trace = "\n call".repeat(TOLD_LEN_MAX);
        let told = last_part(&format!("before\nKernel panic: why{trace}"));
        assert!(
            told.starts_with("before\nKernel panic: why\n call"),
            "{told}"
        );
        assert!(told.len() < TOLD_LEN_MAX, "{}", told.len());
    }
}
