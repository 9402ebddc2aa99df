//! The agent's own log: the kernel's ring buffer in a guest, standard error
//! elsewhere. What happens in a guest is the guest's doing, so lines are
//! rate-limited, escaped and cut.

use std::fmt;
use std::io::Write;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

const LINES_PER_SECOND_MAX: u32 = 20;
const LINE_LEN_MAX: usize = 400;

/// Logs one line made of `format!` arguments.
macro_rules! log {
    ($($arg:tt)*) => { $crate::log::write(format_args!($($arg)*)) };
}
pub(crate) use log;

#[derive(Debug)]
struct Window {
    second: i64,
    lines: u32,
    dropped: u32,
    sink: Option<std::fs::File>,
}

static WINDOW: Mutex<Window> = Mutex::new(Window {
    second: 0,
    lines: 0,
    dropped: 0,
    sink: None,
});

/// Sends later lines to the kernel's log.
pub(crate) fn use_kernel_log() {
    let kmsg = fs_err::OpenOptions::new().write(true).open("/dev/kmsg");
    if let Ok(kmsg) = kmsg {
        WINDOW.lock().sink = Some(kmsg.into_file());
    }
}

pub(crate) fn write(args: fmt::Arguments<'_>) {
    let mut window = WINDOW.lock();
    let second = clock_gettime(ClockId::Monotonic).tv_sec;
    let mut dropped = 0;
    if window.second != second {
        dropped = std::mem::take(&mut window.dropped);
        window.second = second;
        window.lines = 0;
    }
    if window.lines >= LINES_PER_SECOND_MAX {
        window.dropped = window.dropped.saturating_add(1);
        return;
    }
    window.lines += 1;
    let mut line = String::from("tombolo-agent: ");
    let text = args.to_string();
    line.extend(text.chars().flat_map(char::escape_debug).take(LINE_LEN_MAX));
    if dropped > 0 {
        line.push_str(" (and ");
        line.push_str(&dropped.to_string());
        line.push_str(" lines left out before)");
    }
    line.push('\n');
    let written = match &mut window.sink {
        Some(sink) => sink.write_all(line.as_bytes()),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
    // There is nobody left to tell.
    drop(written);
}
