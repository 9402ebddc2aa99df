//! Names of signals.

/// Linux's signals by number.
const NAMES: [(i32, &str); 31] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (5, "SIGTRAP"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (10, "SIGUSR1"),
    (11, "SIGSEGV"),
    (12, "SIGUSR2"),
    (13, "SIGPIPE"),
    (14, "SIGALRM"),
    (15, "SIGTERM"),
    (16, "SIGSTKFLT"),
    (17, "SIGCHLD"),
    (18, "SIGCONT"),
    (19, "SIGSTOP"),
    (20, "SIGTSTP"),
    (21, "SIGTTIN"),
    (22, "SIGTTOU"),
    (23, "SIGURG"),
    (24, "SIGXCPU"),
    (25, "SIGXFSZ"),
    (26, "SIGVTALRM"),
    (27, "SIGPROF"),
    (28, "SIGWINCH"),
    (29, "SIGIO"),
    (30, "SIGPWR"),
    (31, "SIGSYS"),
];
/// Other names of the same signals.
const ALIASES: [(i32, &str); 4] = [
    (6, "SIGIOT"),
    (17, "SIGCLD"),
    (29, "SIGPOLL"),
    (31, "SIGUNUSED"),
];

/// What is sent when a client names no signal.
pub(super) const SIGTERM: i32 = 15;

pub(super) fn number(name: &str) -> Option<i32> {
    let mut known = NAMES.iter().chain(&ALIASES);
    known
        .find(|(_, known)| *known == name)
        .map(|(number, _)| *number)
}

/// The name of a signal; real-time signals have only numbers.
pub(super) fn name(number: i32) -> String {
    NAMES
        .iter()
        .find(|(known, _)| *known == number)
        .map_or_else(|| format!("SIG{number}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for (known, text) in NAMES {
            assert_eq!(number(text), Some(known));
            assert_eq!(name(known), text);
        }
        assert_eq!(number("SIGTERM"), Some(SIGTERM));
        assert_eq!(number("TERM"), None);
        assert_eq!(number("15"), None);
        assert_eq!(name(34), "SIG34");
    }
}
