//! A wallet on a free port, with a client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use server::{Config, Server};
use shards::partition::{CommitListener, Options, Partition};
use storage::journal::Frame;
use tokio::sync::oneshot;
use views::{History, HistoryOptions};

pub(crate) struct Wallet {
    pub(crate) address: SocketAddr,
    #[allow(dead_code, reason = "for the tests of gRPC")]
    pub(crate) grpc_address: SocketAddr,
    pub(crate) directory: Arc<tempfile::TempDir>,
    partition: Partition,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
    pub(crate) next_id: Mutex<u128>,
}

struct Feed(Arc<Mutex<Option<Arc<History>>>>);

impl CommitListener for Feed {
    fn committed(&mut self, frame: &Arc<Frame>) {
        if let Some(history) = self.0.lock().expect("no panic").as_ref() {
            history.committed(frame).expect("the view takes the frame in");
        }
    }
}

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    /// Checks the shape of an error and returns its code.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body = self.json();
        assert_eq!(body["status"], self.status, "{self:?}");
        for field in ["type", "title", "detail", "code"] {
            assert!(body[field].is_string(), "{field}: {self:?}");
        }
        assert!(body["retryable"].is_boolean());
        assert_eq!(self.header("retry-after").is_some(), matches!(self.status, 429 | 503));
        body["code"].as_str().expect("a string").to_owned()
    }

    /// Checks success and returns the body.
    pub(crate) fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()
    }
}

impl Wallet {
    pub(crate) fn start() -> Wallet {
        Wallet::start_in(Arc::new(tempfile::tempdir().expect("a temporary directory")), Config::default())
    }

    pub(crate) fn with_config(config: Config) -> Wallet {
        Wallet::start_in(Arc::new(tempfile::tempdir().expect("a temporary directory")), config)
    }

    pub(crate) fn start_in(directory: Arc<tempfile::TempDir>, config: Config) -> Wallet {
        let slot = Arc::new(Mutex::new(None));
        let fatal: Arc<dyn Fn(String) + Send + Sync> = Arc::new(|why| panic!("{why}"));
        let options =
            Options { segment_size_bytes: 4 << 20, ..Options::new(directory.path().join("partition-0")) };
        let listener = Box::new(Feed(Arc::clone(&slot)));
        let partition =
            Partition::open(options, listener, Arc::clone(&fatal), &mut |_, _| {}).expect("it opens");
        let views = directory.path().join("history");
        let history =
            History::open(&views, partition.reader(), HistoryOptions::default(), fatal).expect("it opens");
        let history = Arc::new(history);
        *slot.lock().expect("no panic") = Some(Arc::clone(&history));
        let (stop, stopped) = oneshot::channel();
        let (listening, address) = std::sync::mpsc::channel();
        let serving = partition.clone();
        let server = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let free = SocketAddr::from(([127, 0, 0, 1], 0));
                let config = Config { listen: free, grpc_listen: free, ..config };
                let server = Server::bind(config).await.expect("it listens");
                server.ready_handle().ready(serving, Some(history));
                let addresses = (server.local_address(), server.grpc_local_address());
                listening.send(addresses).expect("the test waits");
                server.serve(async { drop(stopped.await) }).await;
            });
        });
        let (address, grpc_address) = address.recv().expect("it listens");
        Wallet {
            address: address.expect("an address"),
            grpc_address: grpc_address.expect("an address"),
            directory,
            partition,
            stop: Some(stop),
            server: Some(server),
            next_id: Mutex::new(1),
        }
    }

    pub(crate) fn restart(self) -> Wallet {
        let directory = Arc::clone(&self.directory);
        drop(self);
        Wallet::start_in(directory, Config::default())
    }

    pub(crate) fn id(&self) -> String {
        let mut next = self.next_id.lock().expect("no panic");
        *next += 1;
        format!("01890d9e-3c1b-7c5f-9d6e-{:012x}", *next)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, &body.to_string(), &[])
    }

    pub(crate) fn post_text(&self, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.request("POST", path, &all, body.as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: wallet\r\nconnection: close\r\n");
        if method == "POST" {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.raw(&[head.as_bytes(), body].concat())
    }

    /// Sends bytes as they are, and reads the answer until the connection ends.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        parse(&answer)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it accepts");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    }

    // Commands.

    pub(crate) fn open(&self, accounts: &[&str]) {
        for account in accounts {
            assert_eq!(self.post("/v1/wallet/accounts", &json!({ "account_id": account })).status, 201);
        }
    }

    pub(crate) fn deposit(&self, account: &str, amount: &str, currency: &str) -> Value {
        let body =
            json!({"account": account, "amount": amount, "currency": currency, "transaction_id": self.id()});
        self.post("/v1/wallet/deposit", &body).ok()
    }

    pub(crate) fn transfer_body(&self, from: &str, to: &str, amount: &str, currency: &str) -> Value {
        json!({"from_account": from, "to_account": to, "amount": amount, "currency": currency,
            "transaction_id": self.id()})
    }

    pub(crate) fn transfer(&self, from: &str, to: &str, amount: &str, currency: &str) -> Answer {
        self.post("/v1/wallet/balance_transfer", &self.transfer_body(from, to, amount, currency))
    }

    /// `available`, `held` and `total` of an account in a currency.
    pub(crate) fn balance(&self, account: &str, currency: &str) -> [String; 3] {
        let body = self.get(&format!("/v1/wallet/accounts/{account}")).ok();
        let balances = body["balances"].as_array().expect("an array").clone();
        let balance =
            balances.iter().find(|balance| balance["currency"] == currency).cloned().unwrap_or(Value::Null);
        ["available", "held", "total"].map(|part| balance[part].as_str().unwrap_or("none").to_owned())
    }
}

pub(crate) fn parse(answer: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    Answer { status, headers, text: body.to_owned() }
}

impl Drop for Wallet {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(server) = self.server.take() {
            server.join().expect("the server does not panic");
        }
        self.partition.shut_down();
    }
}
