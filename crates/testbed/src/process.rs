//! A server process with a directory and a port of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// How long a server may take until it answers.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long it is tried again after `kill -9`.
const LEFTOVERS_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked whether it answers.
pub(crate) const START_POLL: Duration = Duration::from_millis(20);
/// Where Linux gives none away unless it is told to.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORT_TRIES: usize = 100;
/// The account that servers run under where we are root: PostgreSQL refuses to run as root, and none needs it.
const UNPRIVILEGED: &str = "nobody";
/// `nobody` and `nogroup` on Debian.
const UNPRIVILEGED_NUMBER: u32 = 65_534;

/// The command line of a server, from its directory and port.
type CommandLine = Box<dyn Fn(&Path, u16) -> Command + Send>;

/// Whom a server runs as.
#[derive(Clone, Copy)]
pub(crate) enum Account {
    /// `nobody` where we are root.
    Unprivileged,
    /// Whoever runs the test: for a server whose program is in the build directory, which `nobody` may not be let into.
    Ours,
}

/// A server that runs, until it is dropped.
pub struct Server {
    name: &'static str,
    account: Account,
    directory: TempDir,
    port: u16,
    command: CommandLine,
    child: Option<Child>,
}

impl Server {
    /// Prepares a directory with `prepare`, then starts the command and waits until its port answers.
    pub(crate) fn start(
        name: &'static str,
        prepare: impl FnOnce(&Path) -> Result<()>,
        command: impl Fn(&Path, u16) -> Command + Send + 'static,
    ) -> Result<Server> {
        Server::start_at(name, Account::Unprivileged, free_port()?, prepare, command)
    }

    /// The same, under this account, at a port that is settled already.
    pub(crate) fn start_at(
        name: &'static str,
        account: Account,
        port: u16,
        prepare: impl FnOnce(&Path) -> Result<()>,
        command: impl Fn(&Path, u16) -> Command + Send + 'static,
    ) -> Result<Server> {
        let directory = tempfile::Builder::new().prefix(&format!("testbed-{name}-")).tempdir()?;
        give_away(directory.path())?;
        prepare(directory.path()).with_context(|| format!("cannot prepare {name}"))?;
        let mut server = Server { name, account, directory, port, command: Box::new(command), child: None };
        server.spawn()?;
        Ok(server)
    }

    /// The server's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again after [`Server::kill`], and waits until it answers. What a killed server leaves behind may take a while to end:
    /// children of PostgreSQL keep the new one from starting.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let deadline = Instant::now() + LEFTOVERS_PATIENCE;
        loop {
            match self.spawn() {
                Err(_) if Instant::now() < deadline => std::thread::sleep(START_POLL),
                started => return started,
            }
        }
    }

    fn spawn(&mut self) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        let mut command = bound(&(self.command)(self.directory.path(), self.port), self.account);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child =
            command.spawn().with_context(|| format!("cannot start {}: is it installed?", self.name))?;
        self.child = Some(child);
        self.wait()
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        while TcpStream::connect(address).is_err() {
            self.check()?;
            if Instant::now() > deadline {
                bail!("{} does not answer: {}", self.name, self.log_tail());
            }
            std::thread::sleep(START_POLL);
        }
        Ok(())
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
        if let Some(status) = ended {
            bail!("{} ended with {status}: {}", self.name, self.log_tail());
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("testbed.log")
    }

    /// The last it said.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens at just now. It is below those that the system gives to whoever asks for any, so that nobody else gets it
/// before the server has started, or while it is down.
pub(crate) fn free_port() -> Result<u16> {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut tried = std::iter::repeat_with(|| fastrand::u16(PORTS)).take(PORT_TRIES);
    tried.find(free).with_context(|| format!("of {PORT_TRIES} ports in {PORTS:?}, none is free"))
}

/// Runs a command of preparation to its end.
pub(crate) fn run(command: &Command, account: Account) -> Result<()> {
    let output = bound(command, account).stdin(Stdio::null()).output();
    let output =
        output.with_context(|| format!("cannot run {:?}: is it installed?", command.get_program()))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{:?} failed with {}: {errors}", command.get_program(), output.status);
    }
    Ok(())
}

/// Lets the unprivileged account write to a directory, or file, of ours.
pub(crate) fn give_away(path: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(UNPRIVILEGED_NUMBER), Some(UNPRIVILEGED_NUMBER))?;
    }
    Ok(())
}

/// The same command under this account, ended when this thread ends.
fn bound(command: &Command, account: Account) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL"]);
    if matches!(account, Account::Unprivileged) && rustix::process::geteuid().is_root() {
        wrapped.args(["--reuid", UNPRIVILEGED, "--regid", "nogroup", "--clear-groups"]);
    }
    wrapped.arg("--").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(name, value);
        }
    }
    wrapped.env("HOME", "/tmp");
    wrapped
}
