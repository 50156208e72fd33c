//! The schema's versions: how a database comes to the one that this program knows, and how it is recognised.

use super::cell::Cell;
use super::connection::{Connection, Database, Dialect};
use super::failure::{Conclusion, Failure};
use super::schema;

/// What [`super::migrate()`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// Where.
    pub place: String,
    /// The version before; 0 for a database without our tables.
    pub from: u32,
    /// The version now.
    pub to: u32,
}

/// Creates the tables, or brings them to the current version. Safe to repeat, to interrupt, and to run twice at once.
pub(super) async fn migrate(database: &dyn Database) -> Result<Migrated, Failure> {
    let mut connection = database.connect().await?;
    let dialect = database.dialect();
    // One at a time; the lock goes with the connection.
    let locked = match dialect {
        Dialect::Postgres => {
            connection.run("SET lock_timeout = '8s'").await?;
            connection.rows("SELECT true FROM pg_advisory_lock(5073141094)", &[]).await?
        }
        Dialect::MariaDb => connection.rows("SELECT GET_LOCK('jigap sql migrate', 8)", &[]).await?,
    };
    if !matches!(locked.first().map(|row| row.flag(0)), Some(Ok(true))) {
        return Err(Failure::busy("another migration of this database is under way"));
    }
    connection.run(schema::VERSIONS_TABLE).await?;
    let from = recorded_version(&mut *connection).await?;
    let migrations = schema::migrations(dialect);
    let current = schema::CURRENT_VERSION;
    if from > current {
        return Err(Failure::refused(format!(
            "{} has schema version {from}, and this program knows only {current}: use the newer program",
            database.place()
        )));
    }
    for (version, statements) in migrations.iter().enumerate().map(|(index, one)| (index as u32 + 1, one)) {
        if version <= from {
            continue;
        }
        // MariaDB commits each definition by itself; its statements therefore do nothing where they were executed before.
        connection.run("BEGIN").await?;
        for statement in *statements {
            connection.run(statement).await?;
        }
        let record = dialect.statement("INSERT INTO schema_versions (version) VALUES (?)");
        connection.rows(&record, &[Cell::Integer(version.into())]).await?;
        connection.run("COMMIT").await?;
    }
    connection.close().await;
    Ok(Migrated { place: database.place().to_owned(), from, to: current })
}

async fn recorded_version(connection: &mut dyn Connection) -> Result<u32, Failure> {
    let found = connection.rows("SELECT COALESCE(MAX(version), 0) FROM schema_versions", &[]).await?;
    found.first().map_or(Ok(0), |row| row.number(0))
}

/// Refuses a database whose tables are not those that this program knows.
pub(super) async fn check_version(connection: &mut dyn Connection, place: &str) -> Result<(), Failure> {
    let current = schema::CURRENT_VERSION;
    match recorded_version(connection).await {
        Ok(version) if version == current => Ok(()),
        Ok(version) if version < current => Err(Failure::refused(format!(
            "{place} has schema version {version}, and this program needs {current}: run `jigap sql migrate`"
        ))),
        Ok(version) => Err(Failure::refused(format!(
            "{place} has schema version {version}, and this program knows only {current}: use the newer program"
        ))),
        Err(failure) if is_missing_table(&failure) => Err(Failure::refused(format!(
            "{place} holds no tables of ours, and this program needs schema version {current}: run `jigap sql migrate`"
        ))),
        Err(failure) => Err(failure),
    }
}

fn is_missing_table(failure: &Failure) -> bool {
    failure.conclusion == Conclusion::Refused && matches!(failure.code.as_str(), "42P01" | "1146")
}
