//! Everything the server remembers: accounts, sandboxes, usage.
//!
//! `SQLite` in one file, in write-ahead mode: a process that dies at any moment
//! loses nothing that was answered. One connection writes, a few read.

mod exposures;
mod networks;
mod organisations;
mod sandboxes;
mod ssh;
mod tokens;
mod usage;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Row as _, SqlSafeStr as _};

pub(crate) use sandboxes::{NewRecord, Page, PageQuery, SandboxRecord, StoredState};
pub(crate) use tokens::{NewToken, TokenOwner};
pub(crate) use usage::{UsageSample, UsageTotals};

const READERS_MAX: u32 = 4;
/// How long a query waits for a free connection or a lock.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// The result code of `SQLite` for "database or disk is full".
const SQLITE_FULL: &str = "13";

/// The database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDatabaseError {
    #[error("could not open the database {}", .path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: sqlx::Error,
    },
    #[error("could not bring the database {} up to date", .path.display())]
    Migrate {
        path: PathBuf,
        #[source]
        source: MigrateError,
    },
}

/// A query failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    #[error("the database could not {operation}")]
    Failed {
        operation: &'static str,
        #[source]
        source: sqlx::Error,
    },
    #[error("the database holds a {column} that cannot be read")]
    Corrupt { column: &'static str },
}

impl QueryError {
    /// Whether the machine has no room for what was to be written.
    pub(crate) fn is_disk_full(&self) -> bool {
        let Self::Failed {
            source: sqlx::Error::Database(error),
            ..
        } = self
        else {
            return false;
        };
        error.code().as_deref() == Some(SQLITE_FULL)
    }
}

/// Names the operation that failed.
fn failed(operation: &'static str) -> impl FnOnce(sqlx::Error) -> QueryError {
    move |source| QueryError::Failed { operation, source }
}

#[derive(Clone, Debug)]
pub(crate) struct Database {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Database {
    /// Opens the file, making it and bringing it up to date as needed.
    pub(crate) async fn open(path: &Path) -> Result<Self, OpenDatabaseError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(WAIT_MAX);
        let connect = |source| OpenDatabaseError::Connect {
            path: path.to_owned(),
            source,
        };
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(WAIT_MAX)
            .connect_with(options.clone())
            .await
            .map_err(connect)?;
        migrations()
            .run(&writer)
            .await
            .map_err(|source| OpenDatabaseError::Migrate {
                path: path.to_owned(),
                source,
            })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(WAIT_MAX)
            .connect_with(options)
            .await
            .map_err(connect)?;
        Ok(Self { writer, readers })
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

fn migrations() -> Migrator {
    let all = [
        (
            "accounts sandboxes usage",
            include_str!("../migrations/0001_accounts_sandboxes_usage.sql"),
        ),
        (
            "sandbox networks",
            include_str!("../migrations/0002_sandbox_networks.sql"),
        ),
        (
            "exposures",
            include_str!("../migrations/0003_exposures.sql"),
        ),
        ("ssh", include_str!("../migrations/0004_ssh.sql")),
    ];
    let migrations = (1..).zip(all).map(|(version, (description, sql))| {
        let sql = sql.into_sql_str();
        Migration::new(
            version,
            description.into(),
            MigrationType::Simple,
            sql,
            false,
        )
    });
    Migrator::with_migrations(migrations.collect())
}

/// A text column as one of our own types.
fn parsed<T: std::str::FromStr>(
    row: &sqlx::sqlite::SqliteRow,
    column: &'static str,
) -> Result<T, QueryError> {
    let text: String = row.try_get(column).map_err(failed("read a row"))?;
    text.parse().ok().ok_or(QueryError::Corrupt { column })
}

/// A whole-number column that must not be negative.
fn unsigned<T: TryFrom<i64>>(
    row: &sqlx::sqlite::SqliteRow,
    column: &'static str,
) -> Result<T, QueryError> {
    let number: i64 = row.try_get(column).map_err(failed("read a row"))?;
    T::try_from(number)
        .ok()
        .ok_or(QueryError::Corrupt { column })
}

/// Databases hold signed numbers only; figures this large do not occur.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
