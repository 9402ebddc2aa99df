//! A session channel on which nothing was started yet (RFC 4254, section 6).

use russh::Channel;
use russh::server::Msg;
use tokio::sync::OwnedSemaphorePermit;

use crate::backend::Terminal;
use crate::limits::Limits;

pub(crate) struct Waiting {
    pub(crate) channel: Channel<Msg>,
    pub(crate) slot: OwnedSemaphorePermit,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) terminal: Option<Terminal>,
    /// What its queue holds, as the gauge counts it: nobody takes from it so far.
    pub(crate) held: i64,
    environment_len: usize,
}

impl Waiting {
    pub(crate) fn new(channel: Channel<Msg>, slot: OwnedSemaphorePermit) -> Self {
        Self {
            channel,
            slot,
            environment: Vec::new(),
            terminal: None,
            held: 0,
            environment_len: 0,
        }
    }

    /// Whether the variable is taken.
    pub(crate) fn set_variable(&mut self, limits: &Limits, name: &str, value: &str) -> bool {
        let is_name = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.is_empty();
        let len = self.environment_len + name.len() + value.len();
        let is_taken = is_name
            && !value.contains('\0')
            && self.environment.len() < limits.environment_max
            && len <= limits.environment_len_max;
        if is_taken {
            self.environment_len = len;
            self.environment.push((name.to_owned(), value.to_owned()));
        }
        is_taken
    }
}
