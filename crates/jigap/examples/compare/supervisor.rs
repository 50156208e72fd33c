//! A wallet that is started again whenever it ends, as a service manager does.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a wallet may take until it serves for the first time.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between its end and its next start: what is killed may hold its lock a little longer.
const PAUSE: Duration = Duration::from_millis(20);

/// What became of a start.
pub(crate) enum Started {
    Serves(Wallet),
    IsNotBuilt,
}

/// A wallet, until it is dropped.
pub(crate) struct Wallet {
    home: PathBuf,
    http: u16,
    grpc: u16,
    stops: Arc<AtomicBool>,
    supervisor: Option<JoinHandle<Result<()>>>,
}

impl Wallet {
    /// Starts it, and waits until it serves.
    pub(crate) fn start(jigap: &Path, home: &Path, architecture: &str, flags: &[String]) -> Result<Started> {
        std::fs::create_dir(home)?;
        let (http, grpc) = free_ports()?;
        // Children are ended with the thread that started them, even if this program is killed.
        let mut words = vec!["--pdeathsig".to_owned(), "KILL".to_owned(), "--".to_owned()];
        words.push(jigap.to_str().context("the program has a name that is no text")?.to_owned());
        let listen = [format!("127.0.0.1:{http}"), format!("127.0.0.1:{grpc}")];
        let [http_at, grpc_at] = &listen;
        words.extend(["serve", "--listen", http_at, "--grpc-listen", grpc_at].map(str::to_owned));
        words.extend(["--architecture", architecture].map(str::to_owned));
        words.extend_from_slice(flags);
        let stops = Arc::new(AtomicBool::new(false));
        let supervisor = std::thread::spawn({
            let (home, stops) = (home.to_owned(), Arc::clone(&stops));
            move || supervise(&home, &words, &stops)
        });
        let mut wallet = Wallet { home: home.to_owned(), http, grpc, stops, supervisor: Some(supervisor) };
        if wallet.wait_until_it_serves()? { Ok(Started::Serves(wallet)) } else { Ok(Started::IsNotBuilt) }
    }

    /// Its entry of the configuration.
    pub(crate) fn entry(&self, architecture: &str, note: &str) -> String {
        let Wallet { home, http, grpc, .. } = self;
        let kill = format!("kill -9 $(cat {})", pid_file(home).display());
        format!(
            "[[architecture]]\nname = {architecture:?}\nserver = \"http://127.0.0.1:{http}\"\ngrpc-server = \"http://127.0.0.1:{grpc}\"\n\
             note = {note:?}\nkill = {kill:?}\n"
        )
    }

    /// False when this version has no such architecture.
    fn wait_until_it_serves(&mut self) -> Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        while ureq::get(format!("http://127.0.0.1:{}/readyz", self.http)).call().is_err() {
            let log = std::fs::read_to_string(log_file(&self.home)).unwrap_or_default();
            if log.contains("is not part of this version") {
                return Ok(false);
            }
            if Instant::now() >= deadline {
                bail!("{} does not serve: {log}", self.home.display());
            }
            std::thread::sleep(PAUSE);
        }
        Ok(true)
    }
}

impl Drop for Wallet {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Release);
        let pid = std::fs::read_to_string(pid_file(&self.home));
        if let Some(pid) = pid.ok().and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?)) {
            // It may have ended just now.
            let _ = kill_process(pid, Signal::TERM);
        }
        if let Some(supervisor) = self.supervisor.take() {
            match supervisor.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("{error:#}"),
                Err(_) => eprintln!("the supervisor of {} panicked", self.home.display()),
            }
        }
    }
}

fn supervise(home: &Path, words: &[String], stops: &AtomicBool) -> Result<()> {
    while !stops.load(Ordering::Acquire) {
        let log = std::fs::File::options().create(true).append(true).open(log_file(home))?;
        let mut command = Command::new("setpriv");
        command.args(words).current_dir(home);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().context("cannot start a wallet")?;
        std::fs::write(pid_file(home), child.id().to_string())?;
        child.wait()?;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn pid_file(home: &Path) -> PathBuf {
    home.join("pid")
}

fn log_file(home: &Path) -> PathBuf {
    home.join("log")
}

/// Ports that nobody listens at just now.
fn free_ports() -> Result<(u16, u16)> {
    let listeners =
        [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
    Ok((listeners[0].local_addr()?.port(), listeners[1].local_addr()?.port()))
}
