//! The two databases: made, asked, killed.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls, SimpleQueryMessage};
use rusqlite::types::ValueRef;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use testbed::Server;

use crate::harness::{Finished, Wallet};

const PATIENCE: Duration = Duration::from_secs(60);
const TRY_AGAIN: Duration = Duration::from_millis(20);

pub(crate) type Row = Vec<Option<String>>;

/// A database for the tables.
pub(crate) enum Base {
    Sqlite(TempDir),
    Postgres(PostgresServer),
}

impl Base {
    pub(crate) fn sqlite() -> Base {
        Base::Sqlite(tempfile::tempdir().unwrap())
    }

    pub(crate) fn postgres() -> Base {
        Base::Postgres(PostgresServer::start())
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Base::Sqlite(directory) => {
                format!("sqlite://{}", directory.path().join("it's a wallet").display())
            }
            Base::Postgres(server) => server.url("wallet", "wallet"),
        }
    }

    /// Runs the view until it has caught up.
    pub(crate) fn follow_once(&self, wallet: &Wallet<'_>) -> Finished {
        self.follow_with(wallet, &["--once"])
    }

    pub(crate) fn follow_with(&self, wallet: &Wallet<'_>, flags: &[&str]) -> Finished {
        wallet.ask(&[&["views", "sql", "--to", &self.url()][..], flags].concat())
    }

    /// The view as a process that follows for ever, and logs into the directory.
    pub(crate) fn follower(&self, directory: &Path, wallet: &Wallet<'_>) -> Follower {
        let log = fs::File::options().create(true).append(true).open(directory.join("views.log")).unwrap();
        let mut command = crate::harness::command(directory);
        command.args(["views", "sql", "--to", &self.url(), "--timeout", "500ms"]);
        command.args(["--grpc-server", &format!("http://{}", wallet.grpc)]);
        Follower(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// What the names of the tables begin with.
    pub(crate) fn prefix(&self) -> &'static str {
        match self {
            Base::Sqlite(_) => "jigap_",
            Base::Postgres(_) => "jigap.",
        }
    }

    /// Asks; `{}` stands for what the names of the tables begin with.
    pub(crate) fn rows(&self, sql: &str) -> Vec<Row> {
        let sql = &sql.replace("{}", self.prefix());
        match self {
            Base::Sqlite(_) => {
                let path = self.url().replace("sqlite://", "");
                let connection = rusqlite::Connection::open(path).unwrap();
                let mut statement = connection.prepare(sql).unwrap();
                let columns = statement.column_count();
                let rows = statement.query_map([], |row| {
                    (0..columns)
                        .map(|column| Ok(text(row.get_ref(column)?)))
                        .collect::<rusqlite::Result<Row>>()
                });
                rows.unwrap().map(Result::unwrap).collect()
            }
            Base::Postgres(server) => {
                let mut client = server.connect();
                let messages = client.simple_query(sql).unwrap();
                let rows = messages.into_iter().filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                });
                let fields = |row: postgres::SimpleQueryRow| {
                    (0..row.len()).map(|field| row.get(field).map(str::to_owned)).collect()
                };
                rows.map(fields).collect()
            }
        }
    }

    /// Changes what it should not; `{}` as in [`Base::rows`].
    pub(crate) fn change(&self, sql: &str) {
        let sql = &sql.replace("{}", self.prefix());
        match self {
            Base::Sqlite(_) => {
                let connection = rusqlite::Connection::open(self.url().replace("sqlite://", "")).unwrap();
                connection.execute_batch(sql).unwrap();
            }
            Base::Postgres(server) => server.execute(sql),
        }
    }

    /// A point in time as the API writes it.
    pub(crate) fn time(&self, column: &str) -> String {
        match self {
            Base::Sqlite(_) => column.to_owned(),
            Base::Postgres(_) => {
                format!("to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
            }
        }
    }

    /// The notes exactly.
    pub(crate) fn metadata(&self) -> &'static str {
        match self {
            Base::Sqlite(_) => "metadata",
            Base::Postgres(_) => "coalesce(metadata_exact, metadata::text)",
        }
    }

    /// Everything in the tables.
    pub(crate) fn dump(&self) -> Vec<(&'static str, Vec<Row>)> {
        let (time, metadata) = (|column: &str| self.time(column), self.metadata());
        let (opened, closed, at) = (time("opened_at"), time("closed_at"), time("timestamp"));
        let (as_of, expires, settled) = (time("as_of"), time("expires_at"), time("settled_at"));
        let accounts = format!(
            "SELECT account_id, handle, opened_sequence, {opened}, closed_sequence, {closed}, {metadata} FROM {{}}accounts ORDER BY 1"
        );
        let transactions = format!(
            "SELECT sequence, transaction_id, type, status, code, leg, leg_code, from_account, to_account, account_id, amount_minor, currency, \
             released_minor, {expires}, referenced_transaction_id, group_id, settled_sequence, {settled}, {at}, {metadata} \
             FROM {{}}transactions ORDER BY 1"
        );
        let postings = format!(
            "SELECT sequence, account_id, {at}, transaction_id, type, counterparty, currency, amount_minor, balance_after_minor, \
             held_after_minor FROM {{}}postings ORDER BY 1, 2"
        );
        let position =
            format!("SELECT version, partition, ledger, sequence, last_event, {as_of} FROM {{}}position");
        let balances = "SELECT account_id, currency, available_minor, held_minor, sequence FROM {}balances ORDER BY 1, 2";
        vec![
            ("position", self.rows(&position)),
            ("accounts", self.rows(&accounts).into_iter().map(with_notes).collect()),
            ("balances", self.rows(balances)),
            ("transactions", self.rows(&transactions).into_iter().map(with_notes).collect()),
            ("postings", self.rows(&postings)),
            ("balances_decimal", self.rows("SELECT * FROM {}balances_decimal ORDER BY 1, 2")),
            ("amounts", self.rows("SELECT amount, released FROM {}transactions_decimal ORDER BY sequence")),
        ]
    }
}

/// The view as a process; it is killed when dropped, for it would follow for ever.
pub(crate) struct Follower(Child);

impl Follower {
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Asks it to stop, and tells how it ended.
    pub(crate) fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
        other => panic!("no column holds {other:?}"),
    }
}

/// The last column is JSON, which PostgreSQL writes in its own way.
fn with_notes(mut row: Row) -> Row {
    let notes = row.pop().unwrap().unwrap();
    let notes: Value = serde_json::from_str(&notes).unwrap();
    row.push(Some(notes.to_string()));
    row
}

/// PostgreSQL with a database `wallet`.
pub(crate) struct PostgresServer(Server);

impl PostgresServer {
    pub(crate) fn start() -> PostgresServer {
        let (server, url) = testbed::postgres().unwrap();
        connect_patiently(&url).batch_execute("CREATE DATABASE wallet").unwrap();
        PostgresServer(server)
    }

    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port())
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.port()
    }

    pub(crate) fn directory(&self) -> &Path {
        self.0.directory()
    }

    fn connect(&self) -> Client {
        connect_patiently(&self.url("wallet", "wallet"))
    }

    pub(crate) fn execute(&self, sql: &str) {
        self.connect().batch_execute(sql).unwrap();
    }

    /// Asks for a password of one user; the others need none.
    pub(crate) fn demand_password_of(&self, user: &str) {
        let rules = self.directory().join("data/pg_hba.conf");
        let others = fs::read_to_string(&rules).unwrap();
        fs::write(&rules, format!("host all {user} 127.0.0.1/32 scram-sha-256\n{others}")).unwrap();
        self.execute("SELECT pg_reload_conf()");
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.0.kill();
    }

    pub(crate) fn start_again(&mut self) {
        self.0.restart().unwrap();
        self.connect();
    }
}

/// A server listens before it has recovered.
fn connect_patiently(url: &str) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Client::connect(url, NoTls) {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "{url}: {error:?}"),
        }
        std::thread::sleep(TRY_AGAIN);
    }
}
