//! Databases that cannot be used, and those that are not this ledger's.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::databases::{Base, PostgresServer};
use crate::harness::{Home, command, finish};
use crate::seed;
use crate::workload::Workload;

/// Whatever is not the ledger's own tables at its own position is refused, and nothing of it changed.
pub(crate) fn tables_of_others_are_left_alone(base: &mut Base) {
    let home = Home::new();
    let wallet = home.serve();
    wallet.open_and_pay();
    base.follow_once(&wallet).expect_code(0);
    let before = base.dump();

    let other_home = Home::new();
    let other = other_home.serve();
    let too_short = base.follow_once(&other).expect_code(7);
    assert!(too_short.stderr.contains("follows another ledger"), "{too_short:?}");
    other.open_and_pay();
    let refused = base.follow_once(&other).expect_code(7);
    assert!(refused.stderr.contains("follows another ledger"), "{refused:?}");
    assert_eq!(base.dump(), before);
    other.stop();

    let refused_after = |sql: &str, why: &str| {
        base.change(sql);
        let refused = base.follow_once(&wallet).expect_code(7);
        assert!(refused.stderr.contains(why), "{refused:?} should say {why}");
    };
    refused_after(
        "UPDATE {}position SET last_event = 'event 4 of then: transfer'",
        "another history of this ledger",
    );
    refused_after("UPDATE {}position SET version = 2", "a newer jigap made");
    refused_after("UPDATE {}position SET version = 0", "build them again with --drop");
    refused_after("UPDATE {}position SET version = 1, partition = 3", "follow partition 3");
    base.follow_with(&wallet, &["--once", "--drop"]).expect_code(0);
    assert_eq!(base.dump(), before);

    // A table of that name that is somebody else's.
    base.follow_with(&wallet, &["--once", "--drop"]).expect_code(0);
    refused_after("DROP TABLE {}position", "already exists");
    wallet.stop();
}

#[test]
fn what_postgresql_refuses_is_told_in_its_own_words() {
    let home = Home::new();
    let wallet = home.serve();
    wallet.open_and_pay();
    let server = PostgresServer::start();
    server.execute(
        "CREATE ROLE stranger LOGIN; CREATE ROLE reader LOGIN; ALTER ROLE reader SET default_transaction_read_only = on;
         CREATE ROLE secured LOGIN PASSWORD 'open sesame'; GRANT ALL ON DATABASE wallet TO secured, reader;",
    );
    server.demand_password_of("secured");
    let ask = |url: &str| {
        let mut command = command(home.path());
        command.args(["views", "sql", "--once", "--patience", "0", "--to", url]);
        command.env("JIGAP_GRPC_SERVER", format!("http://{}", wallet.grpc));
        command
    };
    for (url, code, why) in [
        (server.url("stranger", "wallet"), 7, "permission denied for database wallet (SQLSTATE 42501)"),
        (server.url("reader", "wallet"), 7, "read-only transaction (SQLSTATE 25006)"),
        (server.url("wallet", "nowhere"), 7, "database \"nowhere\" does not exist (SQLSTATE 3D000)"),
        (server.url("secured", "wallet"), 7, "password missing"),
        (format!("{}?sslmode=require", server.url("wallet", "wallet")), 7, "does not support TLS"),
        (format!("{}?sslmode=maybe", server.url("wallet", "wallet")), 2, "sslmode is"),
        ("mysql://localhost".to_owned(), 2, "must be postgres://"),
    ] {
        let refused = finish(&mut ask(&url)).expect_code(code);
        assert!(refused.stderr.contains(why), "{refused:?} should say {why}");
    }
    let wrong = finish(ask(&server.url("secured", "wallet")).env("PGPASSWORD", "wrong")).expect_code(7);
    assert!(wrong.stderr.contains("password authentication failed"), "{wrong:?}");
    finish(ask(&server.url("secured", "wallet")).env("PGPASSWORD", "open sesame")).expect_code(0);
    // Rights on the tables alone are enough to go on, and what lacks them changes nothing.
    let base = Base::Postgres(server);
    let before = base.dump();
    wallet.ask(&["transfer", "alice", "bob", "1", "USD"]).expect_code(0);
    let Base::Postgres(server) = &base else { unreachable!("it was made so") };
    server.execute(
        "GRANT USAGE ON SCHEMA jigap TO stranger; GRANT SELECT ON ALL TABLES IN SCHEMA jigap TO stranger",
    );
    let refused = finish(&mut ask(&server.url("stranger", "wallet"))).expect_code(7);
    assert!(refused.stderr.contains("permission denied for table position"), "{refused:?}");
    assert_eq!(base.dump(), before);
    server.execute("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA jigap TO stranger");
    finish(&mut ask(&server.url("stranger", "wallet"))).expect_code(0);
    assert_ne!(base.dump(), before);
    wallet.stop();
}

#[test]
fn nobody_there_is_told_when_patience_ends() {
    let home = Home::new();
    let wallet = home.serve();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = format!("postgres://wallet@{free}/wallet");
    let away = wallet.ask(&["views", "sql", "--to", &gone, "--patience", "0"]).expect_code(3);
    assert!(away.stderr.contains("the database is away"), "{away:?}");
    let base = Base::sqlite();
    let gone =
        ["views", "sql", "--to", &base.url(), "--timeout", "100ms", "--patience", "0", "--grpc-server"];
    let away = wallet.ask(&[&gone[..], &[&format!("http://{free}")]].concat()).expect_code(3);
    assert!(away.stderr.contains("the wallet is away"), "{away:?}");
    wallet.stop();
}

#[test]
fn files_that_sqlite_cannot_use_are_named() {
    let home = Home::new();
    let wallet = home.serve();
    wallet.open_and_pay();
    let base = Base::sqlite();
    base.follow_once(&wallet).expect_code(0);
    wallet.ask(&["transfer", "alice", "bob", "1", "USD"]).expect_code(0);
    let file = base.url().replace("sqlite://", "");
    std::fs::write(
        home.path().join("text"),
        "this is no database, and long enough to be taken for one, nearly",
    )
    .unwrap();
    for (file, why) in [
        ("missing/wallet.sqlite".to_owned(), "missing/wallet.sqlite: unable to open database file"),
        ("text".to_owned(), "text: file is not a database"),
        (format!("file:{file}?mode=ro"), "readonly database"),
    ] {
        let refused = wallet.ask(&["views", "sql", "--once", "--to", &format!("sqlite://{file}")]);
        assert!(refused.stderr.contains(why), "{refused:?} should say {why}");
        refused.expect_code(7);
    }
    wallet.stop();
}

/// A file that may not grow, as on a full disk: what does not fit is told, and nothing is lost.
#[test]
fn a_full_disk_delays_sqlite_and_loses_nothing() {
    let home = Home::new();
    let wallet = home.serve();
    let mut workload = Workload::new(&wallet, seed());
    workload.run(20);
    let base = Base::sqlite();
    base.follow_once(&wallet).expect_code(0);
    let before = base.dump();
    workload.run(300);
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 256; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_jigap")]);
    limited.args(["views", "sql", "--once", "--patience", "0", "--to", &base.url()]);
    limited.current_dir(home.path()).env("JIGAP_GRPC_SERVER", format!("http://{}", wallet.grpc));
    let full = finish(&mut limited).expect_code(3);
    assert!(full.stderr.contains("the database is away: ") && full.stderr.contains("I/O error"), "{full:?}");
    assert_eq!(base.dump(), before);
    base.follow_once(&wallet).expect_code(0);
    let undisturbed = Base::sqlite();
    undisturbed.follow_once(&wallet).expect_code(0);
    assert_eq!(base.dump(), undisturbed.dump());
    wallet.stop();
}

fn openssl(directory: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output().unwrap();
    assert!(done.status.success(), "{arguments}: {done:?}");
}

/// Makes an authority, and the server a certificate as localhost.
fn with_certificate(server: &PostgresServer, authority: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(authority, &format!("req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=authority -days 2"));
    openssl(authority, &format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"));
    std::fs::write(authority.join("says"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        .unwrap();
    openssl(
        authority,
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile says -out server.crt",
    );
    let owner = std::fs::metadata(server.directory()).unwrap();
    for name in ["server.crt", "server.key"] {
        let file = server.directory().join("data").join(name);
        std::fs::copy(authority.join(name), &file).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    server.execute("ALTER SYSTEM SET ssl = on");
    server.execute("SELECT pg_reload_conf()");
}

#[test]
fn a_server_proves_its_name_where_it_is_asked_to() {
    let (server, authority) = (PostgresServer::start(), tempfile::tempdir().unwrap());
    with_certificate(&server, authority.path());
    let home = Home::new();
    let wallet = home.serve();
    wallet.open_and_pay();
    let verified = format!("sslmode=verify-full&sslrootcert={}/ca.crt", authority.path().display());
    for (host, query, code, why) in [
        ("localhost", verified.as_str(), 0, "caught up"),
        ("127.0.0.1", &verified, 7, "not valid for name"),
        ("localhost", "sslmode=verify-full", 7, "UnknownIssuer"),
        ("127.0.0.1", "sslmode=require", 0, "caught up"),
        ("127.0.0.1", "sslmode=prefer", 0, "caught up"),
        ("127.0.0.1", "sslmode=disable", 0, "caught up"),
    ] {
        let url = format!("postgres://wallet@{host}:{}/wallet?{query}", server.port());
        let done = wallet.ask(&["views", "sql", "--once", "--drop", "--patience", "0", "--to", &url]);
        assert!(done.stderr.contains(why), "{query}: {done:?}");
        done.expect_code(code);
    }
    wallet.stop();
}
