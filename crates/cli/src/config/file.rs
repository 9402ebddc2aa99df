//! The configuration file: TOML without a key that means nothing. A point in a
//! key's name is a table of the file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::keys;
use super::value::Given;
use super::{ConfigError, ConfigFile};

/// What a file sets. Values are kept as written; each key checks its own.
#[derive(Debug, Default)]
pub(super) struct FileValues {
    pub(super) path: PathBuf,
    pub(super) values: BTreeMap<String, Given>,
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
    let mut read = FileValues {
        path: path.to_owned(),
        values: BTreeMap::new(),
    };
    read.take(table, "")?;
    Ok(read)
}

impl FileValues {
    /// Takes the keys of a table whose own name is `prefix`.
    fn take(&mut self, table: toml::Table, prefix: &str) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            match value {
                value if keys::find(&key).is_some() => {
                    self.values.insert(key, given(value));
                }
                toml::Value::Table(inner) if keys::has_below(&key) => {
                    self.take(inner, &format!("{key}."))?;
                }
                _ => {
                    return Err(ConfigError::UnknownKey {
                        path: self.path.clone(),
                        key,
                    });
                }
            }
        }
        Ok(())
    }
}

fn given(value: toml::Value) -> Given {
    match value {
        toml::Value::Array(entries) => Given::Entries(entries.into_iter().map(text).collect()),
        toml::Value::Table(table) => {
            let entries = table.into_iter();
            Given::Entries(
                entries
                    .map(|(name, value)| format!("{name}={}", text(value)))
                    .collect(),
            )
        }
        single => Given::Text(text(single)),
    }
}

fn text(value: toml::Value) -> String {
    match value {
        toml::Value::String(text) => text,
        other => other.to_string(),
    }
}
