//! What rules may know of a request, read once.
//!
//! Guests choose all of it: reading is bounded, and what is ambiguous says so.

use std::collections::BTreeMap;

use super::{RequestHead, path::CanonicalPath, query::Query};

/// Header fields by which servers let a request be another method (HTTP-17).
pub const METHOD_OVERRIDE_HEADERS: [&str; 3] = [
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];
/// Keys of the query by which servers do the same, in lower case.
const METHOD_OVERRIDE_KEYS: [&str; 3] = ["$httpmethod", "_method", "x-http-method-override"];

/// A request as rules see it.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) head: &'a RequestHead<'a>,
    pub(crate) path: &'a CanonicalPath,
    pub(crate) methods: Methods,
    /// None when it cannot be told for sure.
    pub(crate) query: Option<Query>,
    pub(crate) media_type: Result<Option<MediaType>, AmbiguousMediaType>,
    pub(crate) content_length: Option<u64>,
    pub(crate) labels: &'a BTreeMap<String, String>,
}

/// Every method that a server may take the request for.
#[derive(Debug)]
pub(crate) struct Methods {
    /// What the request line says first.
    pub(crate) names: Vec<String>,
    /// Whether these are all.
    pub(crate) complete: bool,
}

/// A media type (RFC 9110, section 8.3.1), in lower case.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MediaType {
    /// Without parameters.
    pub(crate) essence: String,
    pub(crate) charset: Option<String>,
}

/// There is more than one, or one that is not of the form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AmbiguousMediaType;

impl<'a> Facts<'a> {
    pub(crate) fn new(
        head: &'a RequestHead<'a>,
        path: &'a CanonicalPath,
        labels: &'a BTreeMap<String, String>,
    ) -> Self {
        Self {
            head,
            path,
            methods: Methods::of(head),
            query: Query::parse(head.query.unwrap_or_default()).ok(),
            media_type: media_type(head),
            content_length: if head.has_body {
                head.content_length
            } else {
                Some(0)
            },
            labels,
        }
    }

    /// The values of a header, each field line for itself; none when one is not text.
    pub(crate) fn header_values(&self, name: &str) -> Option<Vec<&'a str>> {
        values(self.head, name)
    }

    /// Whether the body is JSON by its declared type, in UTF-8.
    pub(crate) fn is_json(&self) -> bool {
        let Ok(Some(media_type)) = &self.media_type else {
            return false;
        };
        let is_type =
            media_type.essence == "application/json" || media_type.essence.ends_with("+json");
        let is_utf8 = matches!(
            media_type.charset.as_deref(),
            None | Some("utf-8" | "utf8" | "us-ascii")
        );
        is_type && is_utf8
    }
}

impl Methods {
    fn of(head: &RequestHead<'_>) -> Self {
        // Split at both marks, so that no server sees a key that is not seen here.
        let query = head.query.unwrap_or_default().replace(';', "&");
        let query = Query::parse(&query).ok();
        let mut methods = Self {
            names: vec![head.method.to_owned()],
            complete: query.is_some(),
        };
        // Some servers do not regard case, so `get` may be GET as well.
        methods.add(head.method);
        for name in METHOD_OVERRIDE_HEADERS {
            match values(head, name) {
                Some(values) => values.into_iter().for_each(|value| methods.add(value)),
                None => methods.complete = false,
            }
        }
        for (key, value) in query.iter().flat_map(Query::pairs) {
            if METHOD_OVERRIDE_KEYS.contains(&key.to_ascii_lowercase().as_str()) {
                methods.add(value);
            }
        }
        methods
    }

    fn add(&mut self, text: &str) {
        for name in text.split(',') {
            let name = name.trim().to_ascii_uppercase();
            let is_token = !name.is_empty() && name.len() <= 32 && name.bytes().all(is_token);
            if !is_token {
                self.complete = false;
            } else if !self.names.contains(&name) && self.names.len() < 16 {
                self.names.push(name);
            } else if !self.names.contains(&name) {
                self.complete = false;
            }
        }
    }

    /// Whether the request may be taken for something else than its request line says.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.names.len() > 1 || !self.complete
    }
}

/// RFC 9110, section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn values<'a>(head: &RequestHead<'a>, name: &str) -> Option<Vec<&'a str>> {
    head.headers
        .iter()
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| std::str::from_utf8(value).ok().map(str::trim))
        .collect()
}

fn media_type(head: &RequestHead<'_>) -> Result<Option<MediaType>, AmbiguousMediaType> {
    let values = values(head, "content-type").ok_or(AmbiguousMediaType)?;
    match values.as_slice() {
        [] => Ok(None),
        [value] => parse_media_type(value).map(Some).ok_or(AmbiguousMediaType),
        _ => Err(AmbiguousMediaType),
    }
}

fn parse_media_type(value: &str) -> Option<MediaType> {
    // A comma is how two fields are joined.
    if value.contains(',') {
        return None;
    }
    let mut parts = value.split(';');
    let essence = parts.next()?.trim().to_ascii_lowercase();
    let (kind, subtype) = essence.split_once('/')?;
    let is_name = |text: &str| !text.is_empty() && text.bytes().all(is_token);
    if !is_name(kind) || !is_name(subtype) {
        return None;
    }
    let mut charset = None;
    for parameter in parts {
        let (name, value) = match parameter.split_once('=') {
            Some(pair) => pair,
            None if parameter.trim().is_empty() => continue,
            None => return None,
        };
        if name.trim().eq_ignore_ascii_case("charset") {
            let value = value.trim().trim_matches('"').to_ascii_lowercase();
            if charset.replace(value).is_some() {
                return None;
            }
        }
    }
    Some(MediaType { essence, charset })
}

#[cfg(test)]
mod tests;
