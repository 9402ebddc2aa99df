//! What a program's exit status means.

/// The exit codes of Tombolo's own programs. A command run in a sandbox
/// passes on its own code instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    Ok = 0,
    /// It was understood and it failed.
    Failure = 1,
    /// The command line or the configuration is wrong.
    Usage = 64,
    /// A service it needs (the server, a node) is not there.
    Unavailable = 69,
    /// A defect of ours.
    Internal = 70,
    /// The operating system refused something, or lacks it.
    System = 71,
    /// Try again later: a limit is reached.
    TryAgain = 75,
    /// Not allowed: no token, a wrong token, not root.
    NoPermission = 77,
    /// The configuration file is wrong.
    Config = 78,
}

impl ExitCode {
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}

impl std::process::Termination for ExitCode {
    fn report(self) -> std::process::ExitCode {
        self.into()
    }
}
