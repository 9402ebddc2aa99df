//! The configuration file: flat TOML, and no key that means nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::keys;
use super::{ConfigError, ConfigFile};

/// What a file sets. Values are kept as text; each key checks its own.
#[derive(Debug, Default)]
pub(super) struct FileValues {
    pub(super) path: PathBuf,
    pub(super) values: BTreeMap<String, String>,
}

pub(super) fn read(file: ConfigFile<'_>) -> Result<FileValues, ConfigError> {
    let (ConfigFile::Named(path) | ConfigFile::Usual(path)) = file;
    let text = match (file, fs_err::read_to_string(path)) {
        (_, Ok(text)) => text,
        (ConfigFile::Usual(_), Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(FileValues::default());
        }
        (_, Err(error)) => return Err(ConfigError::Read(error)),
    };
    let table: toml::Table = text.parse().map_err(|source| ConfigError::Syntax {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    let mut values = BTreeMap::new();
    for (key, value) in table {
        if keys::find(&key).is_none() {
            return Err(ConfigError::UnknownKey {
                path: path.to_owned(),
                key,
            });
        }
        let text = match value {
            toml::Value::String(text) => text,
            other => other.to_string(),
        };
        values.insert(key, text);
    }
    Ok(FileValues {
        path: path.to_owned(),
        values,
    })
}
