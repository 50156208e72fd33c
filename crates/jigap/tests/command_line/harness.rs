//! Runs the binary, and a wallet on free ports in a directory of its own.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// What a finished command left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// The only line of its output.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Finished {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

/// The binary, without what the environment of the test says about settings.
pub(crate) fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jigap"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("JIGAP_")) {
        command.env_remove(name);
    }
    command.current_dir(directory).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Finished {
    let output = command.output().unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the binary in a directory.
pub(crate) fn run<Text: AsRef<OsStr>>(directory: &Path, arguments: &[Text]) -> Finished {
    finish(command(directory).args(arguments))
}

/// A directory in which a wallet lives, running or not.
pub(crate) struct Home {
    directory: TempDir,
    environment: Vec<(String, String)>,
}

impl Home {
    pub(crate) fn new() -> Home {
        Home::with_environment(&[])
    }

    /// A home whose every process has these variables.
    pub(crate) fn with_environment(variables: &[(&str, &str)]) -> Home {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Home { directory: tempfile::tempdir().unwrap(), environment: variables.iter().map(owned).collect() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where the wallet keeps its data unless told otherwise.
    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("jigap-data")
    }

    pub(crate) fn run<Text: AsRef<OsStr>>(&self, arguments: &[Text]) -> Finished {
        finish(self.command().args(arguments))
    }

    fn command(&self) -> Command {
        let mut command = command(self.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The command that serves on free ports.
    pub(crate) fn serve_command(&self) -> Command {
        self.serve_command_at("127.0.0.1:0", "127.0.0.1:0")
    }

    fn serve_command_at(&self, http: &str, grpc: &str) -> Command {
        let mut command = self.command();
        command.args(["serve", "--listen", http, "--grpc-listen", grpc]);
        command
    }

    /// Runs a wallet that is to end by itself because it cannot serve.
    #[allow(dead_code, reason = "the tests of the sql view do without")]
    pub(crate) fn serve_in_vain(&self, flags: &[&str]) -> Finished {
        finish(self.serve_command().args(flags))
    }

    /// Serves, and waits until it says so.
    pub(crate) fn serve(&self) -> Wallet<'_> {
        self.serve_with(&[])
    }

    /// As [`Home::serve`], with more flags.
    pub(crate) fn serve_with(&self, flags: &[&str]) -> Wallet<'_> {
        let mut command = self.serve_command();
        command.args(flags);
        self.wait_until_it_serves(command)
    }

    /// As [`Home::serve`], where an earlier wallet was.
    #[allow(dead_code, reason = "for the tests of the sql view")]
    pub(crate) fn serve_at(&self, http: &str, grpc: &str) -> Wallet<'_> {
        self.wait_until_it_serves(self.serve_command_at(http, grpc))
    }

    fn wait_until_it_serves(&self, mut command: Command) -> Wallet<'_> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut welcome = BufReader::new(child.stdout.take().unwrap());
        let mut lines = Vec::new();
        // The welcome ends with an empty line after the lines to try.
        while lines.last().map(String::as_str) != Some("")
            || !lines.iter().any(|line| line.starts_with("curl"))
        {
            let mut line = String::new();
            if welcome.read_line(&mut line).unwrap() == 0 {
                let mut why = String::new();
                child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
                panic!("the wallet ended ({:?}): {why}", child.wait());
            }
            lines.push(line.trim_end().to_owned());
        }
        let address = |name: &str| -> SocketAddr {
            let line = lines.iter().find_map(|line| line.trim().strip_prefix(name));
            line.unwrap().trim().trim_start_matches("http://").parse().unwrap()
        };
        let (http, grpc) = (address("HTTP"), address("gRPC"));
        let log = BufReader::new(child.stderr.take().unwrap());
        let examples = lines.into_iter().filter(|line| line.starts_with("curl")).collect();
        Wallet { home: self, child, http, grpc, examples, log }
    }
}

/// A wallet that runs; it is killed when dropped.
pub(crate) struct Wallet<'home> {
    home: &'home Home,
    child: Child,
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    /// The lines to try.
    pub(crate) examples: Vec<String>,
    log: BufReader<ChildStderr>,
}

impl Wallet<'_> {
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Runs a client command against it.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Finished {
        let server = format!("http://{}", self.http);
        let grpc_server = format!("http://{}", self.grpc);
        let mut command = command(self.home.path());
        command.env("JIGAP_SERVER", server).env("JIGAP_GRPC_SERVER", grpc_server);
        finish(command.args(arguments))
    }

    /// Opens alice and bob, deposits 100 USD with alice and transfers 12.50 of them to bob.
    pub(crate) fn open_and_pay(&self) {
        for arguments in [
            &["account", "open", "alice"][..],
            &["account", "open", "bob"],
            &["deposit", "alice", "100", "USD"],
            &["transfer", "alice", "bob", "12.50", "USD"],
        ] {
            self.ask(arguments).expect_code(0);
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Reads the log up to the line with this text.
    pub(crate) fn wait_for_log(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "the log ended before {text:?}");
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Ends it as a service manager does.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.wait().code(), Some(0));
    }
}

impl Drop for Wallet<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
