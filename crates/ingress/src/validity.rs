//! How long a certificate is valid, and when it is time for the next.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// From when to when a certificate is valid, in seconds of the Unix clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    not_before: i64,
    not_after: i64,
}

impl Validity {
    /// Of the first certificate in a file. None if there is none that can be read: then it
    /// is as good as absent.
    pub(crate) fn of_file(path: &Path) -> Option<Self> {
        let certificate = CertificateDer::from_pem_file(path).ok()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
        let validity = parsed.validity();
        Some(Self {
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    /// Whether clients believe it at `now`.
    pub(crate) fn holds(self, now: i64) -> bool {
        (self.not_before..self.not_after).contains(&now)
    }

    /// A third of its time before it ends, as Let's Encrypt advises.
    pub(crate) fn until_renewal(self, now: i64) -> Duration {
        let life = self.not_after.saturating_sub(self.not_before);
        let due = self.not_after.saturating_sub(life / 3);
        Duration::from_secs(u64::try_from(due.saturating_sub(now)).unwrap_or(0))
    }
}

/// Seconds of the Unix clock.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_a_third_of_its_time_before_its_end() {
        let day = 24 * 3600;
        let validity = Validity {
            not_before: 0,
            not_after: 90 * day,
        };
        let cases = [(0, 60), (59, 1), (60, 0), (89, 0), (200, 0)];
        for (now, left) in cases {
            let expected = Duration::from_hours(left * 24);
            assert_eq!(validity.until_renewal(now * day), expected, "day {now}");
        }
    }

    #[test]
    fn a_file_says_how_long_its_certificate_is_valid() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.pem");
        assert!(Validity::of_file(&path).is_none());
        fs_err::write(&path, "nothing of the kind").unwrap();
        assert!(Validity::of_file(&path).is_none());
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 31);
        let certificate = params.self_signed(&key).unwrap();
        let content = format!("{}{}", certificate.pem(), key.serialize_pem());
        fs_err::write(&path, content).unwrap();
        let validity = Validity::of_file(&path).unwrap();
        assert_eq!(validity.not_after - validity.not_before, 30 * 24 * 3600);
    }
}
