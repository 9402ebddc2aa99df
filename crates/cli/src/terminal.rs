//! The terminal this command runs on.

use std::io::IsTerminal as _;

use tombolo_client::TerminalSize;

/// The size to assume where the terminal does not say.
const SIZE_DEFAULT: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

/// Whether both ends of a conversation are a person's terminal.
pub(crate) fn is_attached() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

pub(crate) fn size() -> TerminalSize {
    match crossterm::terminal::size() {
        Ok((columns, rows)) if columns > 0 && rows > 0 => TerminalSize { rows, columns },
        _ => SIZE_DEFAULT,
    }
}

/// The terminal hands every key on as it is pressed, until this is dropped.
#[derive(Debug)]
pub(crate) struct RawMode;

impl RawMode {
    pub(crate) fn enter() -> std::io::Result<Self> {
        crossterm::terminal::enable_raw_mode()?;
        Ok(Self)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Err(error) = crossterm::terminal::disable_raw_mode() {
            crate::output::tell(&format!(
                "the terminal stays in raw mode ({error}); type \"reset\" and Enter"
            ));
        }
    }
}
