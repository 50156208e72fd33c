//! PostgreSQL and MariaDB, set up for tests: small, and synced to the disk all the same.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{Account, Server, run};

/// The user that tests connect as.
const USER: &str = "wallet";

/// A PostgreSQL server, and the URL of its database.
pub fn postgres() -> Result<(Server, String)> {
    let binaries = postgres_binaries()?;
    let initdb = binaries.join("initdb");
    let prepare = |directory: &Path| {
        let mut command = Command::new(initdb);
        command.arg("-D").arg(directory.join("data"));
        command.args(["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        run(&command, Account::Unprivileged)
    };
    let server = Server::start("postgres", prepare, move |directory, port| {
        let mut command = Command::new(binaries.join("postgres"));
        command.arg("-D").arg(directory.join("data")).arg("-k").arg(directory);
        command.args(["-p", &port.to_string(), "-h", "127.0.0.1"]);
        for setting in ["max_prepared_transactions=200", "shared_buffers=64MB", "max_connections=200"] {
            command.args(["-c", setting]);
        }
        command
    })?;
    let url = format!("postgres://{USER}@127.0.0.1:{}/postgres", server.port());
    Ok((server, url))
}

/// Debian keeps each version's programs in a directory of its own.
fn postgres_binaries() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed")?;
    let mut found: Vec<PathBuf> =
        versions.filter_map(|version| Some(version.ok()?.path().join("bin"))).collect();
    found.retain(|binaries| binaries.join("initdb").exists());
    found.sort();
    found.pop().context("/usr/lib/postgresql holds no server")
}

/// A MariaDB server, and the URL of its database.
pub fn mariadb() -> Result<(Server, String)> {
    let prepare = |directory: &Path| {
        let mut command = Command::new("mariadb-install-db");
        command.arg("--no-defaults").arg(format!("--datadir={}", directory.join("data").display()));
        // A server that starts removes whatever temporary tables it finds: others' as well, in a directory that is shared.
        command.arg(format!("--tmpdir={}", directory.display()));
        command.args([
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--innodb-log-file-size=8M",
        ]);
        run(&command, Account::Unprivileged)?;
        // Run once, at every start, before the port answers.
        let statements = format!(
            "CREATE DATABASE IF NOT EXISTS {USER} CHARACTER SET utf8mb4;\n\
             CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '';\n\
             GRANT ALL ON *.* TO '{USER}'@'%';\n"
        );
        Ok(std::fs::write(directory.join("init.sql"), statements)?)
    };
    let server = Server::start("mariadb", prepare, |directory, port| {
        let mut command = Command::new("mariadbd");
        command.arg("--no-defaults");
        for (name, file) in
            [("datadir", "data"), ("socket", "socket"), ("pid-file", "pid"), ("init-file", "init.sql")]
        {
            command.arg(format!("--{name}={}", directory.join(file).display()));
        }
        command.arg(format!("--port={port}"));
        command.arg(format!("--tmpdir={}", directory.display()));
        command.args([
            "--bind-address=127.0.0.1",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=8M",
        ]);
        command.args(["--skip-name-resolve", "--max-connections=200"]);
        command
    })?;
    let url = format!("mysql://{USER}@127.0.0.1:{}/{USER}", server.port());
    Ok((server, url))
}
