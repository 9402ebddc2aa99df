//! The kinds of value a key can have, each with its bounds.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Integer { min: u64, max: u64 },
    Duration { min: Duration, max: Duration },
    Address,
    Isolation,
    RunAs,
}

/// A value that is within its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Integer(u64),
    Duration(Duration),
    Address(SocketAddr),
    Isolation(Isolation),
    RunAs(RunAs),
}

/// How strongly sandboxes are kept apart from the machine. All are virtual
/// machines; never anything weaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Isolation {
    /// Hardware virtualisation where it works, otherwise emulation.
    Auto,
    Kvm,
    Emulated,
}

/// The user and the group that the public server runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunAs {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl fmt::Display for RunAs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.uid, self.gid)
    }
}

/// Why a value is not possible.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ValueError {
    #[error("it is not a whole number")]
    NotInteger(#[source] std::num::ParseIntError),
    #[error("it must be from {min} to {max}")]
    IntegerBounds { min: u64, max: u64 },
    #[error("it is not a duration")]
    NotDuration(#[source] humantime::DurationError),
    #[error("it must be from {} to {}", humantime::format_duration(*min), humantime::format_duration(*max))]
    DurationBounds { min: Duration, max: Duration },
    #[error("it is not an address and a port")]
    NotAddress(#[source] std::net::AddrParseError),
    #[error("there is no such isolation")]
    NotIsolation,
    #[error("it is not a user id and a group id with a colon between them")]
    NotIds,
    #[error("the server must not run as root")]
    Root,
}

impl Kind {
    /// Reads a value and checks it.
    pub(crate) fn parse(&self, given: &str) -> Result<Value, ValueError> {
        match *self {
            Self::Integer { min, max } => {
                let value = given.parse().map_err(ValueError::NotInteger)?;
                if !(min..=max).contains(&value) {
                    return Err(ValueError::IntegerBounds { min, max });
                }
                Ok(Value::Integer(value))
            }
            Self::Duration { min, max } => {
                let value = humantime::parse_duration(given).map_err(ValueError::NotDuration)?;
                if !(min..=max).contains(&value) {
                    return Err(ValueError::DurationBounds { min, max });
                }
                Ok(Value::Duration(value))
            }
            Self::Address => given
                .parse()
                .map(Value::Address)
                .map_err(ValueError::NotAddress),
            Self::Isolation => Ok(Value::Isolation(match given {
                "auto" => Isolation::Auto,
                "kvm" => Isolation::Kvm,
                "emulated" => Isolation::Emulated,
                _ => return Err(ValueError::NotIsolation),
            })),
            Self::RunAs => parse_run_as(given).map(Value::RunAs),
        }
    }
}

fn parse_run_as(given: &str) -> Result<RunAs, ValueError> {
    let (uid, gid) = given.split_once(':').ok_or(ValueError::NotIds)?;
    let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else {
        return Err(ValueError::NotIds);
    };
    if uid == 0 || gid == 0 {
        return Err(ValueError::Root);
    }
    Ok(RunAs { uid, gid })
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer { min, max } => write!(formatter, "a whole number from {min} to {max}"),
            Self::Duration { min, max } => write!(
                formatter,
                "a duration such as \"10m\", from {} to {}",
                humantime::format_duration(*min),
                humantime::format_duration(*max)
            ),
            Self::Address => formatter.write_str(
                "an address and a port, such as \"127.0.0.1:8590\"; port 0 takes a free one",
            ),
            Self::Isolation => formatter.write_str("\"auto\", \"kvm\" or \"emulated\""),
            Self::RunAs => formatter.write_str("\"UID:GID\", neither of them 0"),
        }
    }
}

/// The accessors answer what [`Kind::parse`] of the matching kind makes. A
/// mismatch would be a slip in the table of keys, which a test resolves whole.
impl Value {
    pub(super) fn integer(self) -> u64 {
        match self {
            Self::Integer(value) => value,
            other => mismatch(other),
        }
    }

    pub(super) fn small(self) -> u32 {
        u32::try_from(self.integer()).unwrap_or(u32::MAX)
    }

    pub(super) fn size(self) -> usize {
        usize::try_from(self.integer()).unwrap_or(usize::MAX)
    }

    pub(super) fn duration(self) -> Duration {
        match self {
            Self::Duration(value) => value,
            other => mismatch(other),
        }
    }

    pub(super) fn address(self) -> SocketAddr {
        match self {
            Self::Address(value) => value,
            other => mismatch(other),
        }
    }

    pub(super) fn isolation(self) -> Isolation {
        match self {
            Self::Isolation(value) => value,
            other => mismatch(other),
        }
    }

    pub(super) fn run_as(self) -> RunAs {
        match self {
            Self::RunAs(value) => value,
            other => mismatch(other),
        }
    }
}

fn mismatch<T>(value: Value) -> T {
    unreachable!("a key of another kind than its field: {value:?}")
}
