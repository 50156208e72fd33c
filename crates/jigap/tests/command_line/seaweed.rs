//! A real S3: SeaweedFS on free ports, with one bucket.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const TRY_AGAIN: Duration = Duration::from_millis(50);
const KEY: &str = "jigap";
const SECRET: &str = "right-secret";

pub(crate) struct Seaweed {
    child: Child,
    endpoint: String,
    _directory: TempDir,
}

/// Where `.ci/tools s3` puts it.
fn program() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/s3/bin/weed");
    assert!(path.exists(), "{} is missing: run `.ci/tools s3`, as `make test` does", path.display());
    path
}

/// Ports that are free now; weed wants each port plus 10,000 for its own use.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let mut held = Vec::new();
    while held.len() < COUNT {
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = port.local_addr().unwrap().port();
        let Some(upper) = number.checked_add(10_000) else {
            // Below, then: both must be free.
            let lower = number - 20_000;
            if let (Ok(one), Ok(two)) =
                (TcpListener::bind(("127.0.0.1", lower)), TcpListener::bind(("127.0.0.1", lower + 10_000)))
            {
                held.push((lower, one, two));
            }
            continue;
        };
        if let Ok(second) = TcpListener::bind(("127.0.0.1", upper)) {
            held.push((number, port, second));
        }
    }
    let ports: Vec<u16> = held.iter().map(|(number, ..)| *number).collect();
    ports.try_into().unwrap()
}

impl Seaweed {
    pub(crate) fn start() -> Seaweed {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("s3.json");
        let identity = format!(
            r#"{{"identities":[{{"name":"jigap","credentials":[{{"accessKey":"{KEY}","secretKey":"{SECRET}"}}],"actions":["Admin","Read","Write","List"]}}]}}"#
        );
        std::fs::write(&config, identity).unwrap();
        let [master, volume, filer, s3] = free_ports();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let child = Command::new(program())
            .arg("server")
            .arg("-ip=127.0.0.1")
            .arg("-ip.bind=127.0.0.1")
            .arg(format!("-dir={}", directory.path().display()))
            .arg(format!("-master.port={master}"))
            .arg("-master.peers=none")
            .arg(format!("-volume.port={volume}"))
            .arg("-volume.preStopSeconds=0")
            .arg("-volume.max=50")
            .arg("-master.volumeSizeLimitMB=64")
            .arg("-filer")
            .arg(format!("-filer.port={filer}"))
            .arg("-s3")
            .arg(format!("-s3.port={s3}"))
            .arg(format!("-s3.config={}", config.display()))
            .args(["-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-metricsPort=0"])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let seaweed = Seaweed { child, endpoint: format!("http://127.0.0.1:{s3}"), _directory: directory };
        // A folder of the filer's /buckets is a bucket.
        let deadline = Instant::now() + PATIENCE;
        while !make_folder(filer, "/buckets/wallet/") || TcpStream::connect(("127.0.0.1", s3)).is_err() {
            let log = std::fs::read_to_string(seaweed._directory.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "SeaweedFS does not come up:\n{log}");
            std::thread::sleep(TRY_AGAIN);
        }
        seaweed
    }

    /// What a process needs to use it.
    pub(crate) fn environment<'seaweed>(
        &'seaweed self,
        secret: &'seaweed str,
    ) -> [(&'seaweed str, &'seaweed str); 4] {
        [
            ("AWS_ENDPOINT", &self.endpoint),
            ("AWS_ACCESS_KEY_ID", KEY),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_REGION", "us-east-1"),
        ]
    }
}

fn make_folder(filer: u16, path: &str) -> bool {
    let Ok(mut connection) = TcpStream::connect(("127.0.0.1", filer)) else { return false };
    let request =
        format!("POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    let asked =
        connection.write_all(request.as_bytes()).and_then(|()| connection.read_to_string(&mut answer));
    // It may be there from the attempt before.
    asked.is_ok() && (answer.starts_with("HTTP/1.1 2") || answer.starts_with("HTTP/1.1 409"))
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        // It may have ended already; asked politely it would take fifteen seconds.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
