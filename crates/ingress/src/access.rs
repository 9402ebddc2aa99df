//! Private exposures: the token that opens one comes in a header, in a cookie, or once
//! in the query, which is how a browser gets the cookie. Programs never see it.

use http::header::{COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use http::{Method, Request, Response, StatusCode, header};

use crate::body::{Body, empty};

/// The header that brings the token of a private exposure.
pub const ACCESS_HEADER: &str = "x-tombolo-access";
/// The cookie that brings it. Browsers take one of this name from its own host alone
/// (RFC 6265bis, 4.1.3.2), so that no sibling below the base can put another before it.
pub const ACCESS_COOKIE: &str = "__Host-tombolo_access";
/// The parameter of the query that brings it once.
pub const ACCESS_PARAMETER: &str = "tombolo_access";
/// The longest token that is looked at.
const TOKEN_LEN_MAX: usize = 256;

/// A token, and where it came from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Shown(String),
    /// In the query: the browser is to keep it and ask again without.
    ToKeep {
        token: String,
        without: String,
    },
}

impl Token {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Shown(token) | Self::ToKeep { token, .. } => token,
        }
    }
}

/// The token that a request brings, if any.
pub(crate) fn token<B>(request: &Request<B>) -> Option<Token> {
    let shown = request.headers().get(ACCESS_HEADER).and_then(text);
    let shown = shown.or_else(|| cookie(request.headers()));
    let in_query = || {
        if *request.method() != Method::GET {
            return None;
        }
        let (token, rest) = take_parameter(request.uri().query()?)?;
        let path = request.uri().path();
        let without = match rest.as_str() {
            "" => path.to_owned(),
            rest => format!("{path}?{rest}"),
        };
        Some(Token::ToKeep { token, without })
    };
    // A link that was followed is newer than a cookie.
    in_query()
        .or_else(|| shown.map(Token::Shown))
        .filter(|token| token.text().len() <= TOKEN_LEN_MAX)
}

/// Sends a browser to the same address without the token, which it keeps.
pub(crate) fn keep(token: &str, without: &str) -> Option<Response<Body>> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric();
    // Two slashes at the start would lead to another host.
    let without = format!("/{}", without.trim_start_matches(['/', '\\']));
    if !token.bytes().all(is_plain) {
        return None;
    }
    let cookie = format!("{ACCESS_COOKIE}={token}; Path=/; Secure; HttpOnly; SameSite=Lax");
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::try_from(without).ok()?);
    headers.insert(SET_COOKIE, HeaderValue::try_from(cookie).ok()?);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    Some(response)
}

/// Takes the token out, so that the program does not see it. Cookies are in one line
/// already.
pub(crate) fn hide(headers: &mut HeaderMap) {
    headers.remove(ACCESS_HEADER);
    let Some(cookies) = headers.get(COOKIE) else {
        return;
    };
    let others: Vec<&[u8]> = pairs(cookies)
        .filter(|pair| named(pair).is_none())
        .map(<[u8]>::trim_ascii)
        .collect();
    if others.len() == pairs(cookies).count() {
        return;
    }
    match HeaderValue::from_bytes(&others.join(b"; ".as_slice())) {
        Ok(others) if !others.is_empty() => {
            headers.insert(COOKIE, others);
        }
        _ => {
            headers.remove(COOKIE);
        }
    }
}

fn text(value: &HeaderValue) -> Option<String> {
    value.to_str().ok().map(str::to_owned)
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let value = pairs(headers.get(COOKIE)?).find_map(named)?;
    std::str::from_utf8(value).ok().map(str::to_owned)
}

/// The cookies of a line, whatever bytes others of them have.
fn pairs(cookies: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    cookies.as_bytes().split(|byte| *byte == b';')
}

/// The value of a cookie that is ours.
fn named(pair: &[u8]) -> Option<&[u8]> {
    let at = pair.iter().position(|byte| *byte == b'=')?;
    let (name, value) = pair.split_at_checked(at)?;
    let value = value.get(1..)?;
    (name.trim_ascii() == ACCESS_COOKIE.as_bytes()).then(|| value.trim_ascii())
}

fn take_parameter(query: &str) -> Option<(String, String)> {
    let is_ours = |pair: &&str| pair.split('=').next() == Some(ACCESS_PARAMETER);
    let ours = query.split('&').find(is_ours)?;
    let (_, token) = ours.split_once('=')?;
    let rest: Vec<_> = query.split('&').filter(|pair| !is_ours(pair)).collect();
    Some((token.to_owned(), rest.join("&")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_wherever_they_come() {
        let cases: [(&str, &str, &str, Option<Token>); 8] = [
            ("/", "", "", None),
            (
                "/",
                "x-tombolo-access",
                "abc",
                Some(Token::Shown("abc".into())),
            ),
            (
                "/",
                "cookie",
                "a=1; __Host-tombolo_access=abc",
                Some(Token::Shown("abc".into())),
            ),
            ("/", "cookie", "__Host-tombolo_access2=abc", None),
            (
                "/p?a=1&tombolo_access=abc&b=2",
                "cookie",
                "__Host-tombolo_access=old",
                Some(Token::ToKeep {
                    token: "abc".into(),
                    without: "/p?a=1&b=2".into(),
                }),
            ),
            (
                "/?tombolo_access=abc",
                "",
                "",
                Some(Token::ToKeep {
                    token: "abc".into(),
                    without: "/".into(),
                }),
            ),
            ("/?tombolo_access", "", "", None),
            ("/", "x-tombolo-access", &"a".repeat(257), None),
        ];
        for (uri, name, value, expected) in cases {
            let mut request = Request::builder().uri(uri);
            if !name.is_empty() {
                request = request.header(name, value);
            }
            assert_eq!(token(&request.body(()).unwrap()), expected, "{uri} {name}");
        }
    }

    #[test]
    fn programs_see_no_token() {
        let cases = [
            ("a=1; __Host-tombolo_access=abc; b=2", Some("a=1; b=2")),
            ("__Host-tombolo_access=abc", None),
            ("a=1", Some("a=1")),
        ];
        for (cookies, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(ACCESS_HEADER, HeaderValue::from_static("abc"));
            headers.insert(COOKIE, HeaderValue::from_str(cookies).unwrap());
            hide(&mut headers);
            assert!(!headers.contains_key(ACCESS_HEADER));
            let left = headers.get(COOKIE).map(|value| value.to_str().unwrap());
            assert_eq!(left, expected, "{cookies}");
        }
    }

    #[test]
    fn a_browser_stays_on_the_host() {
        let cases = [
            ("/p?a=1", "/p?a=1"),
            ("//evil.example/", "/evil.example/"),
            ("/\\evil", "/evil"),
            ("\\\\evil", "/evil"),
        ];
        for (without, expected) in cases {
            let response = keep("abc", without).unwrap();
            assert_eq!(response.headers()[header::LOCATION], expected, "{without}");
        }
        assert!(keep("a; Domain=x", "/").is_none());
    }
}
