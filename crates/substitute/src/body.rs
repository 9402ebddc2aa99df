//! Bodies of requests, as streams: what goes in comes out, except that
//! placeholders in the places the grammar allows have become values. Held back
//! is never more than the beginning of a placeholder, of an escape or of a
//! delimiter.

mod form;
mod json;
mod multipart;

use std::fmt;

use crate::{Findings, Slot, encode::Encoding, scan::Scanner};

use form::FormBody;
use json::JsonBody;
use multipart::MultipartBody;

pub(crate) use form::{FormGrammar, substitute_form};
pub(crate) use json::substitute_json;

/// The grammars a body may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// JSON, also several documents one after the other.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// Text that is written without escapes.
    Text,
    /// XML in all its dialects.
    Xml,
    /// `multipart/*` with its boundary.
    Multipart {
        /// What is between the parts, without the hyphens.
        boundary: String,
    },
}

/// RFC 2046, 5.1.1.
const BOUNDARY_LEN_MAX: usize = 70;

impl BodyKind {
    /// Which grammar a `Content-Type` means (RFC 9110, 8.3). `None` for those in
    /// which nothing is ever substituted: a value of another length would damage
    /// `application/octet-stream`, protobuf or gRPC.
    #[must_use]
    pub fn of_content_type(content_type: &str) -> Option<Self> {
        let (essence, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
        let essence = essence.trim().to_ascii_lowercase();
        let (main, sub) = essence.split_once('/')?;
        if main == "multipart" {
            let boundary = parameter(parameters, "boundary")?;
            let possible = (1..=BOUNDARY_LEN_MAX).contains(&boundary.len());
            return possible.then_some(Self::Multipart { boundary });
        }
        match sub {
            "x-www-form-urlencoded" => Some(Self::Form),
            "json" | "x-ndjson" | "ndjson" | "jsonl" | "x-jsonlines" | "json-seq" => {
                Some(Self::Json)
            }
            _ if sub.ends_with("+json") => Some(Self::Json),
            "xml" => Some(Self::Xml),
            _ if sub.ends_with("+xml") => Some(Self::Xml),
            "html" => Some(Self::Xml),
            "graphql" | "javascript" | "x-yaml" | "yaml" | "toml" | "sql" => Some(Self::Text),
            _ if main == "text" => Some(Self::Text),
            _ => None,
        }
    }

    /// The slot that a secret must have enabled for it.
    #[must_use]
    pub fn slot(&self) -> Slot {
        match self {
            Self::Json => Slot::Json,
            Self::Form => Slot::Form,
            Self::Text | Self::Xml => Slot::Text,
            Self::Multipart { .. } => Slot::Multipart,
        }
    }

    pub(crate) fn encoding(&self) -> Encoding {
        match self {
            Self::Json => Encoding::Json,
            Self::Form => Encoding::Percent,
            Self::Text | Self::Multipart { .. } => Encoding::Raw,
            Self::Xml => Encoding::Xml,
        }
    }
}

/// The value of one parameter of a header (RFC 9110, 5.6.6).
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    loop {
        let (key, value) = rest.split_once('=')?;
        let is_wanted = key
            .trim_start_matches([';', ' ', '\t'])
            .trim_end()
            .eq_ignore_ascii_case(name);
        let (found, after) = if let Some(quoted) = value.strip_prefix('"') {
            unquote(quoted)?
        } else {
            let (token, after) = value.split_once(';').unwrap_or((value, ""));
            (token.trim().to_owned(), after)
        };
        if is_wanted {
            return Some(found);
        }
        rest = after;
    }
}

/// A quoted string without its first quote, and what is behind it.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((text, quoted.get(at + 1..).unwrap_or_default())),
            '\\' => text.push(characters.next()?.1),
            _ => text.push(character),
        }
    }
    None
}

/// One body on its way to the host.
pub struct BodySubstitution(Engine);

enum Engine {
    Plain(Scanner),
    Json(JsonBody),
    Form(FormBody),
    Multipart(Box<MultipartBody>),
}

impl BodySubstitution {
    pub(crate) fn new(kind: &BodyKind, scanner: Scanner) -> Self {
        Self(match kind {
            BodyKind::Json => Engine::Json(JsonBody::new(scanner)),
            BodyKind::Form => Engine::Form(FormBody::new(scanner, FormGrammar::Pairs)),
            BodyKind::Text | BodyKind::Xml => Engine::Plain(scanner),
            BodyKind::Multipart { boundary } => {
                Engine::Multipart(Box::new(MultipartBody::new(scanner, boundary)))
            }
        })
    }

    /// Takes the next piece of the body and appends what may leave already.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        match &mut self.0 {
            Engine::Plain(scanner) => scanner.raw(chunk, out),
            Engine::Json(body) => body.push(chunk, out),
            Engine::Form(body) => body.push(chunk, out),
            Engine::Multipart(body) => body.push(chunk, out),
        }
    }

    /// The body has ended: appends what was held back and says what was found.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Findings {
        match &mut self.0 {
            Engine::Plain(scanner) => scanner.flush(out),
            Engine::Json(body) => body.finish(out),
            Engine::Form(body) => body.finish(out),
            Engine::Multipart(body) => body.finish(out),
        }
        self.findings().clone()
    }

    /// What was found so far.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        let scanner = match &self.0 {
            Engine::Plain(scanner) => scanner,
            Engine::Json(body) => body.scanner(),
            Engine::Form(body) => body.scanner(),
            Engine::Multipart(body) => body.scanner(),
        };
        &scanner.resolver.findings
    }

    /// How many bytes are held back at the moment.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.0 {
            Engine::Plain(scanner) => scanner.held(),
            Engine::Json(body) => body.held(),
            Engine::Form(body) => body.held(),
            Engine::Multipart(body) => body.held(),
        }
    }
}

impl fmt::Debug for BodySubstitution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Engine::Plain(_) => "plain",
            Engine::Json(_) => "json",
            Engine::Form(_) => "form",
            Engine::Multipart(_) => "multipart",
        };
        write!(f, "BodySubstitution({kind}, {} bytes held)", self.held())
    }
}

#[cfg(test)]
mod tests;
