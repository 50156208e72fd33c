//! Real PostgreSQL and MariaDB servers, with as many databases as a test wants.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use testbed::Server;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    MariaDb,
}

/// One server.
pub(crate) struct Databases {
    pub(crate) kind: Kind,
    pub(crate) server: Arc<Mutex<Server>>,
    url: String,
    count: AtomicU32,
}

impl Databases {
    pub(crate) fn start(kind: Kind) -> Databases {
        let (server, url) = match kind {
            Kind::Postgres => testbed::postgres().unwrap(),
            Kind::MariaDb => testbed::mariadb().unwrap(),
        };
        Databases { kind, server: Arc::new(Mutex::new(server)), url, count: AtomicU32::new(0) }
    }

    /// The URL of a new, empty database.
    pub(crate) async fn fresh(&self) -> String {
        let name = format!("shard_{}", self.count.fetch_add(1, Ordering::Relaxed));
        self.run(&format!("CREATE DATABASE {name}")).await;
        self.url_of(&name)
    }

    fn url_of(&self, database: &str) -> String {
        let (server, _) = self.url.rsplit_once('/').unwrap();
        format!("{server}/{database}")
    }

    /// Executes statements as the administrator, in the first database.
    pub(crate) async fn run(&self, statements: &str) {
        run(&self.url, statements).await;
    }
}

/// Executes statements in a database.
pub(crate) async fn run(url: &str, statements: &str) {
    if url.starts_with("postgres") {
        postgres(url).await.batch_execute(statements).await.unwrap();
    } else {
        let mut connection = mariadb(url).await;
        connection.query_drop(statements).await.unwrap();
        connection.disconnect().await.unwrap();
    }
}

/// The first column of the first row, as text.
pub(crate) async fn value(url: &str, query: &str) -> String {
    if url.starts_with("postgres") {
        let messages = postgres(url).await.simple_query(query).await.unwrap();
        let row = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        row.unwrap_or_default()
    } else {
        let mut connection = mariadb(url).await;
        let found: Option<mysql_async::Row> = connection.query_first(query).await.unwrap();
        let found = found.and_then(|row| row.get_opt::<String, _>(0).and_then(Result::ok));
        connection.disconnect().await.unwrap();
        found.unwrap_or_default()
    }
}

/// The statement that makes a table of MariaDB.
pub(crate) async fn definition(url: &str, table: &str) -> String {
    let mut connection = mariadb(url).await;
    let found: Option<(String, String)> =
        connection.query_first(format!("SHOW CREATE TABLE {table}")).await.unwrap();
    connection.disconnect().await.unwrap();
    found.unwrap().1
}

/// How many branches are prepared on the server, whoever's they are.
pub(crate) async fn prepared_count(url: &str) -> usize {
    if url.starts_with("postgres") {
        value(url, "SELECT count(*) FROM pg_prepared_xacts").await.parse().unwrap()
    } else {
        let mut connection = mariadb(url).await;
        let found: Vec<mysql_async::Row> = connection.query("XA RECOVER").await.unwrap();
        connection.disconnect().await.unwrap();
        found.len()
    }
}

/// A server answers at its port before it has recovered.
const RECOVERY_POLL: Duration = Duration::from_millis(20);
const RECOVERY_POLLS_MAX: usize = 3_000;

async fn postgres(url: &str) -> tokio_postgres::Client {
    for _ in 0..RECOVERY_POLLS_MAX {
        match tokio_postgres::connect(url, tokio_postgres::NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(_) => tokio::time::sleep(RECOVERY_POLL).await,
        }
    }
    panic!("{url} does not come up");
}

async fn mariadb(url: &str) -> mysql_async::Conn {
    let options = mysql_async::OptsBuilder::from_opts(mysql_async::Opts::from_url(url).unwrap());
    let options: mysql_async::Opts = options.prefer_socket(false).into();
    for _ in 0..RECOVERY_POLLS_MAX {
        match mysql_async::Conn::new(options.clone()).await {
            Ok(connection) => return connection,
            Err(_) => tokio::time::sleep(RECOVERY_POLL).await,
        }
    }
    panic!("{url} does not come up");
}
