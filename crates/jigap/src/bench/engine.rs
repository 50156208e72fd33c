//! Many HTTP/1.1 connections on one thread: one request under way on each, hardly anything between it and the sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;

const EVENTS_MAX: usize = 512;
const READ_SIZE_BYTES: usize = 64 << 10;
/// Larger answers are none of the wallet's.
const ANSWER_SIZE_BYTES_MAX: usize = 16 << 20;
const HEADERS_MAX: usize = 32;

/// What the engine is to do with a connection that has nothing under way.
pub(super) enum Turn<Token> {
    /// The request was written to the buffer; the token comes back with its answer.
    Send(Token),
    /// Nothing is due before this time.
    Wait(Instant),
    /// There will be no more requests.
    Over,
}

/// Makes requests and takes answers.
pub(super) trait Exchange {
    /// What is remembered of a request while it is under way.
    type Token;

    /// Writes the next request.
    fn request(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Turn<Self::Token>;

    /// Takes an answer.
    fn answered(&mut self, token: Self::Token, now: Instant, status: u16, body: &[u8]);

    /// There will be no answer to this request.
    fn failed(&mut self, token: Self::Token, why: &anyhow::Error);
}

struct Connection<Token> {
    stream: TcpStream,
    token: Option<Token>,
    output: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    waits_for_room: bool,
}

/// Connections that take turns.
pub(super) struct Engine<Token> {
    address: SocketAddr,
    connect_timeout: Duration,
    epoll: OwnedFd,
    connections: Vec<Connection<Token>>,
    idle: Vec<usize>,
    under_way: usize,
    scratch: Vec<u8>,
}

impl<Token> Engine<Token> {
    /// Connects.
    pub(super) fn connect(
        address: SocketAddr,
        connections: u32,
        connect_timeout: Duration,
    ) -> anyhow::Result<Engine<Token>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("cannot wait for sockets")?;
        let mut engine = Engine {
            address,
            connect_timeout,
            epoll,
            connections: Vec::new(),
            idle: Vec::new(),
            under_way: 0,
            scratch: vec![0; READ_SIZE_BYTES],
        };
        for index in 0..connections as usize {
            let stream = engine.open(index)?;
            engine.connections.push(Connection {
                stream,
                token: None,
                output: Vec::new(),
                written: 0,
                input: Vec::new(),
                waits_for_room: false,
            });
            engine.idle.push(index);
        }
        Ok(engine)
    }

    fn open(&self, index: usize) -> anyhow::Result<TcpStream> {
        let open = || -> std::io::Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&self.address, self.connect_timeout)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll::add(&self.epoll, &stream, EventData::new_u64(index as u64), EventFlags::IN)?;
            Ok(stream)
        };
        open().with_context(|| format!("cannot connect to {}", self.address))
    }

    /// Runs until the exchange is over and every request was answered, or until the deadline.
    pub(super) fn run<Work: Exchange<Token = Token>>(
        &mut self,
        exchange: &mut Work,
        deadline: Instant,
    ) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut over = false;
        loop {
            let mut wake = deadline;
            while !over && let Some(index) = self.idle.pop() {
                let now = Instant::now();
                let connection = &mut self.connections[index];
                connection.output.clear();
                connection.written = 0;
                match exchange.request(now, &mut connection.output) {
                    Turn::Send(token) => {
                        connection.token = Some(token);
                        self.under_way += 1;
                        self.write(index, exchange)?;
                        continue;
                    }
                    Turn::Wait(until) => wake = wake.min(until),
                    Turn::Over => over = true,
                }
                self.idle.push(index);
                break;
            }
            if over && self.under_way == 0 {
                return Ok(());
            }
            let now = Instant::now();
            if now >= deadline {
                self.give_up(exchange);
                return Ok(());
            }
            let pause = wake.saturating_duration_since(now);
            let timeout =
                Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error).context("cannot wait for sockets"),
            }
            for event in &events {
                self.serve(event.data.u64() as usize, event.flags, exchange)?;
            }
        }
    }

    fn serve<Work: Exchange<Token = Token>>(
        &mut self,
        index: usize,
        flags: EventFlags,
        exchange: &mut Work,
    ) -> anyhow::Result<()> {
        if flags.contains(EventFlags::OUT) {
            self.write(index, exchange)?;
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.read(index, exchange)?;
        }
        Ok(())
    }

    fn write<Work: Exchange<Token = Token>>(
        &mut self,
        index: usize,
        exchange: &mut Work,
    ) -> anyhow::Result<()> {
        let connection = &mut self.connections[index];
        while connection.written < connection.output.len() {
            match connection.stream.write(&connection.output[connection.written..]) {
                Ok(0) => return self.reconnect(index, exchange, anyhow!("the connection was closed")),
                Ok(size) => connection.written += size,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return self.wait_for_room(index, true);
                }
                Err(error) => return self.reconnect(index, exchange, error.into()),
            }
        }
        if self.connections[index].waits_for_room { self.wait_for_room(index, false) } else { Ok(()) }
    }

    fn wait_for_room(&mut self, index: usize, waits: bool) -> anyhow::Result<()> {
        let connection = &mut self.connections[index];
        if connection.waits_for_room == waits {
            return Ok(());
        }
        connection.waits_for_room = waits;
        let interest = if waits { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        epoll::modify(&self.epoll, &connection.stream, EventData::new_u64(index as u64), interest)
            .context("cannot wait for a socket")
    }

    fn read<Work: Exchange<Token = Token>>(
        &mut self,
        index: usize,
        exchange: &mut Work,
    ) -> anyhow::Result<()> {
        let connection = &mut self.connections[index];
        let size = match connection.stream.read(&mut self.scratch) {
            Ok(0) => return self.reconnect(index, exchange, anyhow!("the connection was closed")),
            Ok(size) => size,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return self.reconnect(index, exchange, error.into()),
        };
        // The whole answer nearly always comes at once, and then need not be copied.
        let mut gathered = std::mem::take(&mut connection.input);
        let bytes = if gathered.is_empty() {
            &self.scratch[..size]
        } else {
            gathered.extend_from_slice(&self.scratch[..size]);
            &gathered[..]
        };
        match parse(bytes) {
            Ok(Some(answer)) => {
                let token = connection.token.take();
                let token = token.ok_or_else(|| anyhow!("an answer came that nothing was asked for"))?;
                exchange.answered(token, Instant::now(), answer.status, &bytes[answer.body]);
                gathered.clear();
                connection.input = gathered;
                self.under_way -= 1;
                self.idle.push(index);
                Ok(())
            }
            Ok(None) => {
                if gathered.is_empty() {
                    gathered.extend_from_slice(&self.scratch[..size]);
                }
                connection.input = gathered;
                Ok(())
            }
            Err(error) => self.reconnect(index, exchange, error),
        }
    }

    fn reconnect<Work: Exchange<Token = Token>>(
        &mut self,
        index: usize,
        exchange: &mut Work,
        why: anyhow::Error,
    ) -> anyhow::Result<()> {
        let stream = self.open(index).with_context(|| format!("after: {why:#}"))?;
        let connection = &mut self.connections[index];
        connection.stream = stream;
        connection.input.clear();
        connection.output.clear();
        connection.written = 0;
        connection.waits_for_room = false;
        if let Some(token) = connection.token.take() {
            self.under_way -= 1;
            self.idle.push(index);
            exchange.failed(token, &why);
        }
        Ok(())
    }

    fn give_up<Work: Exchange<Token = Token>>(&mut self, exchange: &mut Work) {
        let why = anyhow!("no answer in time");
        for token in self.connections.iter_mut().filter_map(|connection| connection.token.take()) {
            exchange.failed(token, &why);
        }
    }
}

struct Answer {
    status: u16,
    body: std::ops::Range<usize>,
}

/// Reads an answer; `None` when more of it must come.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_size = match response.parse(bytes).context("the answer is no HTTP/1.1")? {
        httparse::Status::Complete(size) => size,
        httparse::Status::Partial => return Ok(None),
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length: usize = length
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok())
        .ok_or_else(|| anyhow!("the answer has no content-length"))?;
    anyhow::ensure!(length <= ANSWER_SIZE_BYTES_MAX, "the answer has {length} bytes");
    let end = head_size + length;
    if bytes.len() < end {
        return Ok(None);
    }
    anyhow::ensure!(bytes.len() == end, "more than one answer came to one request");
    let status = response.code.expect("a complete head has a status");
    Ok(Some(Answer { status, body: head_size..end }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_or_waited_for() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let answer = parse(whole).expect("it is right").expect("it is whole");
        assert_eq!((answer.status, &whole[answer.body]), (200, &b"ok"[..]));
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).expect("so far right").is_none(), "{end}");
        }
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP").is_err());
        assert!(parse(b"SMTP\r\n\r\n").is_err());
    }
}
