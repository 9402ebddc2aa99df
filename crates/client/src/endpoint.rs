//! Where a server listens, and what opens it.

use std::fmt;

/// The root of one server: scheme, host and port, without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    is_secure: bool,
    authority: String,
    host: String,
    port: u16,
}

/// Why an address is not one of a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// It cannot be read as a URL at all.
    #[error("\"{given}\" is not a URL")]
    NotUrl {
        /// What was given.
        given: String,
        /// What is wrong with it.
        #[source]
        source: url::ParseError,
    },
    /// It is not one of HTTP.
    #[error("\"{given}\" must begin with http:// or https://")]
    Scheme {
        /// What was given.
        given: String,
    },
    /// It goes on after the port.
    #[error("\"{given}\" must end after the port: a path, query or user name has no meaning here")]
    NotRoot {
        /// What was given.
        given: String,
    },
}

impl Endpoint {
    /// Takes `http://host:port` or `https://host:port`, with or without one
    /// final slash.
    ///
    /// # Errors
    /// What is no such address.
    pub fn parse(given: &str) -> Result<Self, EndpointError> {
        let url = url::Url::parse(given).map_err(|source| EndpointError::NotUrl {
            given: given.to_owned(),
            source,
        })?;
        let is_secure = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => {
                return Err(EndpointError::Scheme {
                    given: given.to_owned(),
                });
            }
        };
        let is_root = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let (true, Some(host), Some(port)) = (is_root, url.host_str(), url.port_or_known_default())
        else {
            return Err(EndpointError::NotRoot {
                given: given.to_owned(),
            });
        };
        Ok(Self {
            is_secure,
            authority: format!("{host}:{port}"),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
        })
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// `host:port`, as in the header `Host`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// What to connect a TCP socket to.
    pub(crate) fn socket(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(formatter, "{scheme}://{}", self.authority)
    }
}

/// A bearer token. It cannot be printed by accident.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes what a person or a file gave, without the white space around it.
    pub fn new(given: &str) -> Self {
        Self(given.trim().to_owned())
    }

    /// The token itself, for a header or the one place that prints it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Token({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_roots_and_refuses_the_rest() {
        for (given, expected) in [
            ("http://127.0.0.1:8590", Some("http://127.0.0.1:8590")),
            ("http://127.0.0.1:8590/", Some("http://127.0.0.1:8590")),
            ("http://[::1]:1", Some("http://[::1]:1")),
            ("http://example.test", Some("http://example.test:80")),
            ("https://example.test", Some("https://example.test:443")),
            ("ftp://127.0.0.1:8590", None),
            ("http://127.0.0.1:8590/api", None),
            ("http://user@127.0.0.1:8590", None),
            ("http://127.0.0.1:8590?x=1", None),
            ("127.0.0.1:8590", None),
            ("", None),
        ] {
            let endpoint = Endpoint::parse(given).ok().map(|e| e.to_string());
            assert_eq!(endpoint.as_deref(), expected, "{given}");
        }
        let six = Endpoint::parse("http://[::1]:7").unwrap();
        assert_eq!(six.socket(), ("::1", 7));
    }

    #[test]
    fn a_token_does_not_print() {
        let token = Token::new(" ddo_secret\n");
        assert_eq!(token.reveal(), "ddo_secret");
        assert!(!format!("{token:?}").contains("secret"));
    }
}
