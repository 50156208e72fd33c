//! A receiver of webhooks: a plain server over sockets that answers as it is told, and remembers what it was sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver as Channel, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

/// How long a test waits for a request that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub(crate) fn kind(&self) -> String {
        self.json()["type"].as_str().expect("a type").to_owned()
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.json()["data"]["sequence"].as_u64().expect("a sequence")
    }

    /// How many of the signatures are by this secret. Written from the specification, over ring, of which the wallet knows nothing.
    pub(crate) fn signatures_by(&self, secret: &str) -> usize {
        let key = BASE64.decode(secret.strip_prefix("whsec_").expect("a secret")).expect("base64");
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
        let head = format!("{}.{}.", self.header("webhook-id"), self.header("webhook-timestamp"));
        let signed = [head.as_bytes(), &self.body].concat();
        let is_by = |signature: &&str| {
            let tag = BASE64.decode(signature.strip_prefix("v1,").expect("version 1")).expect("base64");
            ring::hmac::verify(&key, &signed, &tag).is_ok()
        };
        self.header("webhook-signature").split(' ').filter(is_by).count()
    }
}

/// What the receiver does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Status(u16),
    /// A status with a header line.
    With(u16, String),
    /// These bytes, and the end of the connection.
    Raw(&'static [u8]),
    /// Nothing, for as long as the receiver lives.
    Hang,
}

type Script = Arc<Mutex<dyn FnMut(&Request) -> Reply + Send>>;

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    requests: Channel<Request>,
    stopped: Arc<AtomicBool>,
}

impl Receiver {
    pub(crate) fn start(script: impl FnMut(&Request) -> Reply + Send + 'static) -> Receiver {
        Receiver::over(TcpListener::bind("127.0.0.1:0").expect("a free port"), script)
    }

    /// Answers 200 to everything.
    pub(crate) fn willing() -> Receiver {
        Receiver::start(|_| Reply::Status(200))
    }

    pub(crate) fn over(
        listener: TcpListener,
        script: impl FnMut(&Request) -> Reply + Send + 'static,
    ) -> Receiver {
        let address = listener.local_addr().expect("an address");
        let (seen, requests) = channel();
        let stopped = Arc::new(AtomicBool::new(false));
        let script: Script = Arc::new(Mutex::new(script));
        let is_stopped = Arc::clone(&stopped);
        std::thread::spawn(move || {
            // Connections that hang are kept until the receiver ends.
            let mut hanging = Vec::new();
            for stream in listener.incoming() {
                if is_stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                hanging.push(stream.try_clone().expect("a descriptor"));
                let (script, seen) = (Arc::clone(&script), seen.clone());
                std::thread::spawn(move || converse(stream, &script, &seen));
            }
        });
        Receiver { address, requests, stopped }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// The next request.
    pub(crate) fn next(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).expect("a request comes")
    }

    pub(crate) fn take(&self, count: usize) -> Vec<Request> {
        (0..count).map(|_| self.next()).collect()
    }

    /// A request that is there already.
    pub(crate) fn waiting(&self) -> Option<Request> {
        self.requests.try_recv().ok()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes whoever accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn converse(stream: TcpStream, script: &Script, seen: &Sender<Request>) {
    let mut writer = stream.try_clone().expect("a descriptor");
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let reply = (script.lock().expect("no panic"))(&request);
        // The test may have seen enough.
        let _ = seen.send(request);
        let answer = match reply {
            Reply::Status(status) => format!("HTTP/1.1 {status} Status\r\ncontent-length: 0\r\n\r\n"),
            Reply::With(status, line) => {
                format!("HTTP/1.1 {status} Status\r\n{line}\r\ncontent-length: 0\r\n\r\n")
            }
            Reply::Raw(bytes) => {
                let _ = writer.write_all(bytes);
                let _ = writer.shutdown(std::net::Shutdown::Both);
                return;
            }
            Reply::Hang => return,
        };
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let line = lines.remove(0);
    let headers: Vec<(String, String)> = lines
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().expect("a length"))];
    reader.read_exact(&mut body).ok()?;
    Some(Request { line, headers, body })
}
