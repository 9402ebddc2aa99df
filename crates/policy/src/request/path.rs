//! One way to write the path of a request.
//!
//! Servers disagree on what a path with dot segments, doubled slashes, parameters or odd
//! escapes means. So a path that is compared with rules is brought into one form first,
//! and that form is what is sent (HTTP-16). What can be read in two ways even then is
//! refused. The form is that of RFC 3986, section 6.2.2, and empty segments are dropped.
//!
//! Guests choose these bytes: parsing is linear, bounded and never panics.

use thiserror::Error;

/// Bytes of a path.
pub const PATH_LEN_MAX: usize = 8192;

/// A path in canonical form. It begins with `/` and has no query and no fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath {
    text: String,
    encoded_slash: bool,
}

/// Why a path has no canonical form. None of them quotes the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    #[error("the path is longer than {PATH_LEN_MAX} bytes")]
    TooLong,
    #[error("the path holds a control character")]
    Control,
    #[error("the path holds a backslash, which some servers read as a slash")]
    Backslash,
    #[error("the path holds a parameter after `;`, which some servers remove")]
    Parameter,
    #[error("the path holds `?` or `#`")]
    Delimiter,
    #[error("the path holds `%` without two hexadecimal digits after it")]
    Escape,
    #[error("the path is encoded twice")]
    DoubleEncoding,
    #[error("the path is not UTF-8 when it is decoded")]
    NotUtf8,
    #[error("the path leads above the root, or an encoded slash hides a dot segment")]
    DotSegment,
}

impl CanonicalPath {
    /// Brings the path of a request, without query, into canonical form.
    ///
    /// # Errors
    /// It can be read in two ways, or is too long.
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        if raw.len() > PATH_LEN_MAX {
            return Err(PathError::TooLong);
        }
        if !raw.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        let escaped = normalise_escapes(raw)?;
        let text = resolve_segments(&escaped)?;
        if text.len() > PATH_LEN_MAX {
            return Err(PathError::TooLong);
        }
        let encoded_slash = text.contains("%2F");
        Ok(Self {
            text,
            encoded_slash,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a segment holds `%2F`, which some servers take for the end of a segment.
    pub fn has_encoded_slash(&self) -> bool {
        self.encoded_slash
    }

    /// The segments; a path that ends in a slash has an empty last one.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.text.split('/').skip(1)
    }
}

/// Decodes what need not be escaped and escapes what must be; escapes are in upper case.
fn normalise_escapes(raw: &str) -> Result<String, PathError> {
    let mut text = String::with_capacity(raw.len());
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = bytes.next().zip(bytes.next());
            let value = digits.and_then(hexadecimal).ok_or(PathError::Escape)?;
            check_byte(value)?;
            if is_unreserved(value) {
                text.push(char::from(value));
            } else {
                push_escape(&mut text, value);
            }
            decoded.push(value);
            continue;
        }
        check_byte(byte)?;
        match byte {
            b';' => return Err(PathError::Parameter),
            b'?' | b'#' => return Err(PathError::Delimiter),
            byte if is_path_character(byte) => text.push(char::from(byte)),
            byte => push_escape(&mut text, byte),
        }
        decoded.push(byte);
    }
    if std::str::from_utf8(&decoded).is_err() {
        return Err(PathError::NotUtf8);
    }
    // Looked for in what is sent: `%25%32%65` would else be `%252e` there.
    if is_encoded_twice(&text) {
        return Err(PathError::DoubleEncoding);
    }
    Ok(text)
}

fn check_byte(value: u8) -> Result<(), PathError> {
    match value {
        0..=0x1f | 0x7f => Err(PathError::Control),
        b'\\' => Err(PathError::Backslash),
        _ => Ok(()),
    }
}

fn is_encoded_twice(text: &str) -> bool {
    text.split("%25").skip(1).any(|rest| {
        let mut digits = rest.bytes();
        digits
            .next()
            .zip(digits.next())
            .and_then(hexadecimal)
            .is_some()
    })
}

fn hexadecimal((high, low): (u8, u8)) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let value = digit(high)? * 16 + digit(low)?;
    u8::try_from(value).ok()
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What stands in a path as itself: RFC 3986, section 3.3, without `;`, and the slash.
fn is_path_character(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'='
                | b':'
                | b'@'
                | b'/'
        )
}

fn push_escape(text: &mut String, value: u8) {
    let digit = |nibble: u8| {
        char::from_digit(u32::from(nibble), 16).map_or('0', |digit| digit.to_ascii_uppercase())
    };
    text.push('%');
    text.push(digit(value >> 4));
    text.push(digit(value & 0x0f));
}

/// Removes dot segments (RFC 3986, section 5.2.4) and empty segments.
fn resolve_segments(text: &str) -> Result<String, PathError> {
    let mut kept: Vec<&str> = Vec::new();
    let mut directory = true;
    for segment in text.split('/').skip(1) {
        directory = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop().ok_or(PathError::DotSegment)?;
            }
            segment if hides_dots(segment) => return Err(PathError::DotSegment),
            segment => kept.push(segment),
        }
    }
    let mut path = String::with_capacity(text.len());
    for segment in &kept {
        path.push('/');
        path.push_str(segment);
    }
    if directory || kept.is_empty() {
        path.push('/');
    }
    Ok(path)
}

/// `..%2Fadmin` climbs on a server that decodes before it splits.
fn hides_dots(segment: &str) -> bool {
    segment.contains("%2F") && segment.split("%2F").any(|part| matches!(part, "." | ".."))
}

#[cfg(test)]
mod tests;
