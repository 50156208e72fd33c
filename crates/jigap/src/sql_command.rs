//! `jigap sql`: the tables of shards in PostgreSQL and MariaDB.

use anyhow::Context;
use distributed::sql::{Migrated, Timeouts, migrate};
use serde_json::json;

use crate::cli::{Output, SqlSubject};
use crate::exit::{Exit, Failure, OrExit};
use crate::output::{print_json, print_line};

/// Runs `jigap sql ...`.
pub(crate) fn run(subject: &SqlSubject) -> Result<(), Failure> {
    match subject {
        SqlSubject::Migrate { urls, output } => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start the connections")?;
            for url in urls {
                let migrated =
                    runtime.block_on(migrate(url, Timeouts::default())).or_exit(Exit::Unavailable)?;
                print(&migrated, output.choose())?;
            }
            Ok(())
        }
    }
}

fn print(migrated: &Migrated, output: Output) -> std::io::Result<()> {
    let Migrated { place, from, to } = migrated;
    match output {
        Output::Programs => print_json(&json!({ "database": place, "from": from, "to": to })),
        Output::People if from == to => print_line(&format!("{place}: has version {to} already")),
        Output::People if *from == 0 => print_line(&format!("{place}: tables of version {to} made")),
        Output::People => print_line(&format!("{place}: brought from version {from} to {to}")),
    }
}
