//! Times between the wire's text and the guest's nanoseconds.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use tombolo_api::rpc::{ErrorObject, Time};

use super::fault::CallError;

/// Text that is no time, or a time the guest cannot hold.
#[derive(Debug, thiserror::Error)]
#[error("Invalid time value")]
pub(super) struct InvalidTime;

impl From<InvalidTime> for CallError {
    fn from(invalid: InvalidTime) -> Self {
        ErrorObject::new("RangeError", invalid.to_string()).into()
    }
}

/// ISO 8601 with milliseconds, as JavaScript writes it.
pub(super) fn to_iso(nanos: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanos))
        .unwrap_or(Timestamp::UNIX_EPOCH)
        .strftime("%Y-%m-%dT%H:%M:%S.%3fZ")
        .to_string()
}

/// Nanoseconds since the epoch.
pub(super) fn to_nanos(time: &Time) -> Result<i64, InvalidTime> {
    match time {
        Time::Iso(text) => iso_to_nanos(text),
        Time::Seconds(seconds) => seconds_to_nanos(*seconds),
    }
    .ok_or(InvalidTime)
}

fn iso_to_nanos(text: &str) -> Option<i64> {
    let timestamp = text.parse::<Timestamp>().ok().or_else(|| {
        // Python writes times without a zone; the guest's is UTC.
        let civil = text.parse::<DateTime>().ok()?;
        Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
    })?;
    i64::try_from(timestamp.as_nanosecond()).ok()
}

fn seconds_to_nanos(seconds: f64) -> Option<i64> {
    let timestamp = Timestamp::UNIX_EPOCH
        .checked_add(jiff::SignedDuration::try_from_secs_f64(seconds).ok()?)
        .ok()?;
    i64::try_from(timestamp.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_767_225_600_123_456_789, "2026-01-01T00:00:00.123Z"),
            (-1_000_000, "1969-12-31T23:59:59.999Z"),
        ];
        for (nanos, iso) in cases {
            assert_eq!(to_iso(nanos), iso);
            let back = to_nanos(&Time::Iso(iso.into())).unwrap();
            assert_eq!(back, nanos - nanos.rem_euclid(1_000_000), "{iso}");
        }
    }

    #[test]
    fn clients_write_times_in_many_ways() {
        let good = [
            (
                Time::Iso("2026-01-01T00:00:00Z".into()),
                1_767_225_600_000_000_000,
            ),
            (
                Time::Iso("2026-01-01T01:00:00+01:00".into()),
                1_767_225_600_000_000_000,
            ),
            (
                Time::Iso("2026-01-01T00:00:00".into()),
                1_767_225_600_000_000_000,
            ),
            (
                Time::Iso("2026-01-01 00:00:00".into()),
                1_767_225_600_000_000_000,
            ),
            (Time::Iso("2026-01-01".into()), 1_767_225_600_000_000_000),
            (Time::Seconds(1.5), 1_500_000_000),
            (Time::Seconds(-1.0), -1_000_000_000),
        ];
        for (time, expected) in good {
            assert_eq!(to_nanos(&time).unwrap(), expected, "{time:?}");
        }
        let bad = [
            Time::Iso("yesterday".into()),
            Time::Iso("9999-12-31T00:00:00Z".into()),
            Time::Seconds(f64::NAN),
            Time::Seconds(1e30),
        ];
        for time in bad {
            assert!(to_nanos(&time).is_err(), "{time:?}");
        }
    }
}
