//! How long a sandbox lives: with its primary connection, or until a moment.

use std::time::Duration;

use tombolo_ids::UnixMillis;

/// How far a client's clock may be ahead of ours when it asks for the longest
/// life in terms of its own clock.
pub const CLOCK_SKEW_TOLERATED: Duration = Duration::from_mins(1);

/// What a sandbox's life hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifetimeKind {
    /// It ends with its primary connection, and at its deadline at the latest.
    Session,
    /// It ends at its deadline, whoever is connected.
    Duration,
}

/// The operator's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifetimeLimits {
    /// The longest life, extensions included.
    pub lifetime_max: Duration,
    /// How far from now one extension may put the end.
    pub extension_max: Duration,
    /// How long a session outlives its lost primary connection.
    pub grace: Duration,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifetimeRequest {
    Session,
    For(Duration),
    Until(UnixMillis),
}

/// A lifetime that cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LifetimeRequestError {
    #[error("timeout {given:?} is neither \"session\" nor a duration such as \"30s\" or \"5m\"")]
    Unreadable { given: String },
    #[error("give either timeout or stop_at_ms, not both")]
    Both,
    #[error("a timeout of zero leaves no time to run anything")]
    Zero,
    #[error("stop_at_ms lies in the past; is the client's clock right?")]
    Past,
    #[error("the longest life of a sandbox is {} s, {} s were asked for", .max.as_secs(), .asked.as_secs())]
    TooLong { max: Duration, asked: Duration },
}

impl LifetimeRequest {
    /// Reads the two ways clients have to say it.
    pub fn new(
        timeout: Option<&str>,
        stop_at: Option<UnixMillis>,
    ) -> Result<Self, LifetimeRequestError> {
        match (timeout, stop_at) {
            (None | Some("session"), None) => Ok(Self::Session),
            (None, Some(moment)) => Ok(Self::Until(moment)),
            (Some(_), Some(_)) => Err(LifetimeRequestError::Both),
            (Some(text), None) => parse_duration(text).map(Self::For),
        }
    }
}

fn parse_duration(text: &str) -> Result<Duration, LifetimeRequestError> {
    let unreadable = || LifetimeRequestError::Unreadable {
        given: text.chars().take(32).collect(),
    };
    let units = [('s', 1), ('m', 60), ('h', 3600)];
    let (digits, seconds_each) = units
        .into_iter()
        .find_map(|(unit, seconds)| text.strip_suffix(unit).map(|digits| (digits, seconds)))
        .ok_or_else(unreadable)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(unreadable());
    }
    let count: u64 = digits.parse().ok().ok_or_else(unreadable)?;
    let seconds = count.checked_mul(seconds_each).ok_or_else(unreadable)?;
    Ok(Duration::from_secs(seconds))
}

/// A granted lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    pub kind: LifetimeKind,
    /// When it ends at the latest.
    pub deadline: UnixMillis,
    /// Where extensions end.
    pub latest: UnixMillis,
}

impl Lifetime {
    /// Grants what is asked for, or says why not. A life that is too long is
    /// refused and not shortened: the client would count on it.
    pub fn grant(
        request: LifetimeRequest,
        limits: &LifetimeLimits,
        now: UnixMillis,
    ) -> Result<Self, LifetimeRequestError> {
        let max = limits.lifetime_max;
        let latest = now.plus(max);
        let (kind, deadline) = match request {
            LifetimeRequest::Session => (LifetimeKind::Session, latest),
            LifetimeRequest::For(Duration::ZERO) => return Err(LifetimeRequestError::Zero),
            LifetimeRequest::For(asked) if asked > max => {
                return Err(LifetimeRequestError::TooLong { max, asked });
            }
            LifetimeRequest::For(asked) => (LifetimeKind::Duration, now.plus(asked)),
            LifetimeRequest::Until(moment) if moment <= now => {
                return Err(LifetimeRequestError::Past);
            }
            LifetimeRequest::Until(moment) => {
                let asked = moment.since(now);
                if asked > max.saturating_add(CLOCK_SKEW_TOLERATED) {
                    return Err(LifetimeRequestError::TooLong { max, asked });
                }
                (LifetimeKind::Duration, moment.min(latest))
            }
        };
        Ok(Self {
            kind,
            deadline,
            latest,
        })
    }

    /// Moves the deadline towards `asked` as far as the limits allow and
    /// answers where it is now. A deadline never moves closer.
    pub fn extend(
        &mut self,
        asked: UnixMillis,
        limits: &LifetimeLimits,
        now: UnixMillis,
    ) -> UnixMillis {
        let granted = asked.min(now.plus(limits.extension_max)).min(self.latest);
        self.deadline = self.deadline.max(granted);
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);
    const LIMITS: LifetimeLimits = LifetimeLimits {
        lifetime_max: Duration::from_hours(1),
        extension_max: Duration::from_mins(30),
        grace: Duration::from_secs(30),
    };

    fn minutes(count: u64) -> UnixMillis {
        NOW.plus(Duration::from_mins(count))
    }

    #[test]
    fn timeouts_are_session_or_a_duration() {
        use LifetimeRequest::{For, Session, Until};
        let cases = [
            (None, None, Some(Session)),
            (Some("session"), None, Some(Session)),
            (Some("30s"), None, Some(For(Duration::from_secs(30)))),
            (Some("5m"), None, Some(For(Duration::from_mins(5)))),
            (Some("2h"), None, Some(For(Duration::from_hours(2)))),
            (Some("0s"), None, Some(For(Duration::ZERO))),
            (None, Some(NOW), Some(Until(NOW))),
            (Some("5m"), Some(NOW), None),
            (Some("session"), Some(NOW), None),
            (Some("5"), None, None),
            (Some("m"), None, None),
            (Some("-5m"), None, None),
            (Some("+5m"), None, None),
            (Some("1.5m"), None, None),
            (Some(" 5m"), None, None),
            (Some("5d"), None, None),
            (Some(""), None, None),
            (Some("99999999999999999999m"), None, None),
            (Some("9999999999999999999m"), None, None),
            (Some("m\u{e9}"), None, None),
        ];
        for (timeout, stop_at, expected) in cases {
            let read = LifetimeRequest::new(timeout, stop_at);
            assert_eq!(
                read.clone().ok(),
                expected,
                "{timeout:?} {stop_at:?} {read:?}"
            );
        }
    }

    #[test]
    fn a_life_is_granted_in_full_or_refused() {
        use LifetimeKind::{Duration as D, Session as S};
        let hour = Duration::from_hours(1);
        let second = Duration::from_secs(1);
        let too_long = |asked| LifetimeRequestError::TooLong { max: hour, asked };
        let cases = [
            (LifetimeRequest::Session, Ok((S, minutes(60)))),
            (LifetimeRequest::For(second), Ok((D, NOW.plus(second)))),
            (LifetimeRequest::For(hour), Ok((D, minutes(60)))),
            (
                LifetimeRequest::For(hour + second),
                Err(too_long(hour + second)),
            ),
            (
                LifetimeRequest::For(Duration::ZERO),
                Err(LifetimeRequestError::Zero),
            ),
            (LifetimeRequest::Until(minutes(5)), Ok((D, minutes(5)))),
            (LifetimeRequest::Until(minutes(61)), Ok((D, minutes(60)))),
            (
                LifetimeRequest::Until(minutes(62)),
                Err(too_long(Duration::from_mins(62))),
            ),
            (LifetimeRequest::Until(NOW), Err(LifetimeRequestError::Past)),
            (
                LifetimeRequest::Until(UnixMillis(i64::MIN)),
                Err(LifetimeRequestError::Past),
            ),
        ];
        for (request, expected) in cases {
            let granted = Lifetime::grant(request, &LIMITS, NOW);
            let shown = granted.map(|lifetime| (lifetime.kind, lifetime.deadline));
            assert_eq!(shown, expected, "{request:?}");
        }
    }

    #[test]
    fn extensions_are_capped_and_never_shorten() {
        let mut lifetime =
            Lifetime::grant(LifetimeRequest::Until(minutes(5)), &LIMITS, NOW).unwrap();
        let cases = [
            (minutes(1), minutes(10), minutes(10)),
            (minutes(1), minutes(2), minutes(10)),
            (minutes(1), minutes(31), minutes(31)),
            (minutes(1), minutes(45), minutes(31)),
            (minutes(20), minutes(55), minutes(50)),
            (minutes(40), UnixMillis(i64::MAX), minutes(60)),
            (minutes(40), UnixMillis(i64::MIN), minutes(60)),
        ];
        for (now, asked, expected) in cases {
            assert_eq!(lifetime.extend(asked, &LIMITS, now), expected, "{asked:?}");
        }
    }
}
