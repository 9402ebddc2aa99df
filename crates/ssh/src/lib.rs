//! SSH from the world to processes, files and ports of sandboxes.
//!
//! The protocol ends here (RFC 4251 to 4254, by `russh`). Who may come in, and how
//! programs are started and reached, is the [`Backend`]'s; of sandboxes this crate
//! knows no more than that. Commands run with the sandbox's shell, files go through its
//! own `sftp-server`, and forwards lead to its loopback and nowhere else. Forwarding of
//! agents and of X11 is refused.
//!
//! Both sides are untrusted. What a client or a program that does not read can make this
//! process hold is bounded for each connection (`pace`), and so are connections,
//! channels, attempts to log in and the time until somebody has ([`Limits`]).

mod backend;
mod connection;
mod forward;
mod host_key;
mod limits;
mod pace;
mod serve;
mod session;
mod shared;
#[cfg(test)]
mod tests;
mod waiting;

pub use backend::{
    Backend, ConnectError, Exit, Forwarded, Key, Launch, ListenError, Login, ParseKeyError,
    Process, Program, Sandbox, SpawnError, Started, Terminal,
};
pub use host_key::{HostKey, HostKeyError};
pub use limits::Limits;
pub use serve::{Gateway, Listening, OpenError};
