//! Directories, walks and globs.

use serde::{Deserialize, Serialize};

/// An entry of `readDir`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirEntry {
    /// Within its directory.
    pub name: String,
    /// Whether it is a regular file.
    pub is_file: bool,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Whether it is a symbolic link.
    pub is_symlink: bool,
}

/// Parameters of `walk`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WalkParams {
    /// The root of the tree.
    pub path: String,
}

/// Further parameters of `walk`. The JavaScript SDK puts them beside `path`,
/// the Python SDK into `options`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WalkOptions {
    /// How far below the root; no bound when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<f64>,
    /// Whether files are listed; yes by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_files: Option<bool>,
    /// Whether directories are listed; yes by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_dirs: Option<bool>,
    /// Whether symbolic links are listed; yes by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_symlinks: Option<bool>,
    /// Whether links are followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow_symlinks: Option<bool>,
    /// Whether followed links are shown by their real path; yes by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonicalize: Option<bool>,
    /// Only files with one of these endings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exts: Option<Vec<String>>,
    /// Only paths that match one of these.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<Vec<Pattern>>,
    /// No paths that match one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip: Option<Vec<Pattern>>,
}

/// A JavaScript regular expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pattern {
    /// What stands between the slashes.
    pub source: String,
    /// What stands after them.
    #[serde(default)]
    pub flags: String,
}

/// Parameters of `expandGlob`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExpandGlobParams {
    /// The pattern.
    pub glob: String,
}

/// Further parameters of `expandGlob`. The JavaScript SDK puts them beside
/// `glob`, the Python SDK into `options`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExpandGlobOptions {
    /// Where a relative pattern starts, `/home/app` when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Patterns of what to leave out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude: Option<Vec<String>>,
    /// Whether directories are listed; yes by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_dirs: Option<bool>,
    /// Whether links are followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow_symlinks: Option<bool>,
    /// Whether followed links are shown by their real path; yes by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonicalize: Option<bool>,
    /// Extended syntax; yes by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended: Option<bool>,
    /// Whether `**` spans directories; yes by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub globstar: Option<bool>,
    /// Whether case is ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub case_insensitive: Option<bool>,
}

/// An entry of `walk` and `expandGlob`, one JSON document in each chunk of the
/// stream they answer with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WalkEntry {
    /// The whole path.
    pub path: String,
    /// Its last part.
    pub name: String,
    /// Whether it is a regular file.
    pub is_file: bool,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Whether it is a symbolic link.
    pub is_symlink: bool,
}

/// Result of `walk` and `expandGlob`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamReference {
    /// The server stream that carries the answer.
    pub stream_id: u64,
}
