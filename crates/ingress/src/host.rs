//! Which exposure a request is for: the name it was sent to, below the base.

use std::fmt;
use std::str::FromStr;

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use tombolo_ids::ExposureName;

/// The longest name below which exposures are: one of theirs must fit in 253 bytes.
const BASE_LEN_MAX: usize = 200;
const LABEL_LEN_MAX: usize = 63;

/// The name below which all exposures are, such as `tombolo.localhost`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base(String);

/// Text that is no name of a domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a base name is lower-case labels of letters, digits and hyphens with points between them, \
     at most {BASE_LEN_MAX} bytes"
)]
pub struct ParseBaseError;

impl FromStr for Base {
    type Err = ParseBaseError;

    fn from_str(text: &str) -> Result<Self, ParseBaseError> {
        let is_label = |label: &str| {
            (1..=LABEL_LEN_MAX).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        };
        if text.len() <= BASE_LEN_MAX && text.split('.').all(is_label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseBaseError)
        }
    }
}

impl fmt::Display for Base {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Base {
    /// What follows `https://` in the address of an exposure.
    pub fn domain(&self, name: &ExposureName, port: u16) -> String {
        match port {
            443 => format!("{name}.{}", self.0),
            port => format!("{name}.{}:{port}", self.0),
        }
    }

    /// The exposure that a domain is of, if it is below this base.
    pub fn name(&self, domain: &str) -> Option<ExposureName> {
        let authority: Authority = domain.parse().ok()?;
        self.name_of(&authority)
    }

    pub(crate) fn name_of(&self, authority: &Authority) -> Option<ExposureName> {
        let host = authority.host().to_ascii_lowercase();
        // A name with a point at its end is the same one (RFC 1034, 3.1).
        let host = host.strip_suffix('.').unwrap_or(&host);
        host.strip_suffix(&self.0)?.strip_suffix('.')?.parse().ok()
    }
}

/// Why it is not known whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    #[error("The request names no host.")]
    Missing,
    #[error("The request names more than one host.")]
    Several,
    #[error("The host of the request cannot be read.")]
    Unreadable,
}

/// The one host that a request names, wherever it does (RFC 9112, 3.2; RFC 9113,
/// 8.3.1).
pub(crate) fn authority(parts: &Parts) -> Result<Authority, HostError> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err(HostError::Several);
    }
    let host = host
        .map(|host| Authority::try_from(host.as_bytes()))
        .transpose()
        .ok()
        .ok_or(HostError::Unreadable)?;
    let named = match (parts.uri.authority(), host) {
        (Some(one), Some(other)) if *one != other => return Err(HostError::Several),
        (Some(one), _) => one.clone(),
        (None, Some(one)) => one,
        (None, None) => return Err(HostError::Missing),
    };
    if named.as_str().contains('@') || named.host().is_empty() {
        return Err(HostError::Unreadable);
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const NAME: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn bases_are_names_of_domains() {
        for good in ["tombolo.localhost", "a", "x-1.example.com"] {
            assert_eq!(good.parse::<Base>().unwrap().to_string(), good);
        }
        let long = "a".repeat(64);
        let longer = vec!["abcdefghi"; 21].join(".");
        for bad in [
            "", ".", "a.", ".a", "a..b", "A.b", "-a", "a-", "a_b", "a:1", "*.a", &long, &longer,
        ] {
            assert_eq!(bad.parse::<Base>(), Err(ParseBaseError), "{bad}");
        }
    }

    #[test]
    fn a_domain_leads_to_its_exposure_and_no_other_does() {
        let base: Base = "tombolo.localhost".parse().unwrap();
        let name: ExposureName = NAME.parse().unwrap();
        assert_eq!(base.domain(&name, 443), format!("{NAME}.tombolo.localhost"));
        assert_eq!(
            base.domain(&name, 8443),
            format!("{NAME}.tombolo.localhost:8443")
        );
        let good = [
            format!("{NAME}.tombolo.localhost"),
            format!("{NAME}.tombolo.localhost:8443"),
            format!("{NAME}.Tombolo.LOCALHOST.:1"),
            format!("{}.tombolo.localhost", NAME.to_uppercase()),
        ];
        for domain in good {
            assert_eq!(base.name(&domain).as_ref(), Some(&name), "{domain}");
        }
        let bad = [
            "tombolo.localhost".to_owned(),
            NAME.to_owned(),
            format!("{NAME}.localhost"),
            format!("{NAME}xtombolo.localhost"),
            format!("x.{NAME}.tombolo.localhost"),
            format!("{NAME}.tombolo.localhost.evil"),
            format!("{}.tombolo.localhost", &NAME[1..]),
            format!("{}g.tombolo.localhost", &NAME[1..]),
            String::new(),
        ];
        for domain in bad {
            assert_eq!(base.name(&domain), None, "{domain}");
        }
    }

    #[test]
    fn a_request_names_one_host() {
        let cases: [(&str, &[&str], Result<&str, HostError>); 8] = [
            ("/", &["a:1"], Ok("a:1")),
            ("https://a/", &[], Ok("a")),
            ("https://a/", &["A"], Ok("a")),
            ("https://a/", &["b"], Err(HostError::Several)),
            ("/", &["a", "a"], Err(HostError::Several)),
            ("/", &[], Err(HostError::Missing)),
            ("/", &["a b"], Err(HostError::Unreadable)),
            ("/", &["u@a"], Err(HostError::Unreadable)),
        ];
        for (uri, hosts, expected) in cases {
            let mut request = Request::builder().uri(uri);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let named = authority(&parts).map(|named| named.to_string());
            assert_eq!(named, expected.map(str::to_owned), "{uri} {hosts:?}");
        }
    }
}
