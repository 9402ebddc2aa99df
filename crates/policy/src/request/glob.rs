//! Globs over canonical paths: `*` is any part of one segment, `**` any number of segments.

use thiserror::Error;

use super::path::{CanonicalPath, PathError};

/// Characters of a glob.
pub const GLOB_LEN_MAX: usize = 1024;

/// A glob that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathGlob {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// `**`.
    Segments,
    /// A segment, split at its stars: one text more than there are stars.
    Segment(Vec<String>),
}

/// Why a text is not a glob, with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GlobError {
    #[error("a glob has at most {GLOB_LEN_MAX} characters")]
    TooLong,
    #[error("a glob of a path begins with a slash and has neither query nor parameters")]
    Path(#[source] PathError),
    #[error("paths are compared in canonical form; write `{canonical}`")]
    NotCanonical { canonical: String },
    #[error("`**` is a whole segment; write `/**/`, or `*` for a part of one segment")]
    PartialSegments,
}

impl PathGlob {
    /// Reads a glob. It must be in the canonical form of paths itself, or it could never match.
    ///
    /// # Errors
    /// Says what to write instead.
    pub fn parse(text: &str) -> Result<Self, GlobError> {
        if text.len() > GLOB_LEN_MAX {
            return Err(GlobError::TooLong);
        }
        let path = CanonicalPath::parse(text).map_err(GlobError::Path)?;
        if path.as_str() != text {
            return Err(GlobError::NotCanonical {
                canonical: path.as_str().to_owned(),
            });
        }
        let parts = path.segments().map(parse_part).collect::<Result<_, _>>()?;
        Ok(Self { parts })
    }

    pub fn matches(&self, path: &CanonicalPath) -> bool {
        let segments: Vec<&str> = path.segments().collect();
        matches_parts(&self.parts, &segments)
    }
}

fn parse_part(segment: &str) -> Result<Part, GlobError> {
    if segment == "**" {
        return Ok(Part::Segments);
    }
    if segment.contains("**") {
        return Err(GlobError::PartialSegments);
    }
    Ok(Part::Segment(
        segment.split('*').map(str::to_owned).collect(),
    ))
}

/// Goes back to the last `**` only, which is enough: time is the product of both lengths.
fn matches_parts(parts: &[Part], segments: &[&str]) -> bool {
    let (mut part, mut segment) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    loop {
        match (parts.get(part), segments.get(segment)) {
            (None, None) => return true,
            (Some(Part::Segments), _) => {
                last_star = Some((part, segment));
                part += 1;
                continue;
            }
            (Some(Part::Segment(pieces)), Some(text)) if matches_segment(pieces, text) => {
                part += 1;
                segment += 1;
                continue;
            }
            _ => {}
        }
        let Some((star, from)) = last_star else {
            return false;
        };
        if from >= segments.len() {
            return false;
        }
        last_star = Some((star, from + 1));
        part = star + 1;
        segment = from + 1;
    }
}

/// Whether the pieces follow each other in the text, the first at its beginning and the
/// last at its end. A star alone is not an empty segment.
fn matches_segment(pieces: &[String], text: &str) -> bool {
    let Some((first, rest)) = pieces.split_first() else {
        return false;
    };
    let Some((last, middle)) = rest.split_last() else {
        return text == first;
    };
    if first.is_empty() && last.is_empty() && middle.is_empty() {
        return !text.is_empty();
    }
    let Some(mut remaining) = text.strip_prefix(first.as_str()) else {
        return false;
    };
    for piece in middle {
        match remaining.split_once(piece.as_str()) {
            Some((_, after)) => remaining = after,
            None => return false,
        }
    }
    remaining.ends_with(last.as_str())
}

#[cfg(test)]
mod tests;
