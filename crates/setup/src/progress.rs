//! Telling a person what is going on, on a terminal and elsewhere.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

/// Hears what set-up does. A second run that finds everything made says nothing.
pub trait Progress: Send + Sync {
    /// A step begins: a phrase such as "Unpack the engine".
    fn begin(&self, step: &str);
    /// The step that runs has something to say, often.
    fn detail(&self, line: &str);
    /// The step is done.
    fn end(&self, step: &str, took: Duration);
}

/// The form that suits standard error: a spinner on a terminal, lines elsewhere.
pub fn for_terminal() -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() {
        Box::new(Spinner::new())
    } else {
        Box::new(Lines)
    }
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _step: &str) {}
    fn detail(&self, _line: &str) {}
    fn end(&self, _step: &str, _took: Duration) {}
}

/// One plain line to standard error when a step begins and when it is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lines;

impl Lines {
    fn write(line: &str) {
        // Nobody reads: then there is nobody to tell that nobody reads.
        writeln!(std::io::stderr().lock(), "{line}").ok();
    }
}

impl Progress for Lines {
    fn begin(&self, step: &str) {
        Self::write(&format!("{step} ..."));
    }

    fn detail(&self, _line: &str) {}

    fn end(&self, step: &str, took: Duration) {
        Self::write(&format!("{step}: done in {}", seconds(took)));
    }
}

/// A spinner with the last line of the step that runs.
#[derive(Debug)]
pub struct Spinner {
    bar: ProgressBar,
}

const TICK: Duration = Duration::from_millis(120);

impl Spinner {
    /// A spinner on standard error, hidden until the first step begins.
    pub fn new() -> Self {
        let style = ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg:.dim}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::no_length().with_style(style);
        Self { bar }
    }
}

impl Default for Spinner {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Spinner {
    fn begin(&self, step: &str) {
        self.bar.reset();
        self.bar.set_prefix(step.to_owned());
        self.bar.set_message("");
        self.bar.enable_steady_tick(TICK);
    }

    fn detail(&self, line: &str) {
        self.bar.set_message(line.to_owned());
    }

    fn end(&self, step: &str, took: Duration) {
        self.bar.disable_steady_tick();
        self.bar.finish_and_clear();
        Lines.end(step, took);
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}
