//! HDFS: a NameNode and a DataNode of Hadoop.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{Account, START_PATIENCE, START_POLL, Server, free_port, run};

const NAME_NODE: &str = "org.apache.hadoop.hdfs.server.namenode.NameNode";
const DATA_NODE: &str = "org.apache.hadoop.hdfs.server.datanode.DataNode";
/// What Hadoop needs of a Java that is newer than itself; that it starts fast; and that it leaves nothing in `/tmp`.
const JAVA_FLAGS: [&str; 7] = [
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Djava.net.preferIPv4Stack=true",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
];
/// Where Debian keeps the web framework that Hadoop wants.
const SYSTEM_JARS: &str = "/usr/share/java";
const JERSEY: [&str; 6] = [
    "jersey1-core.jar",
    "jersey1-server.jar",
    "jersey1-servlet.jar",
    "jersey1-json.jar",
    "jsr311-api.jar",
    "jaxb-api.jar",
];
const LOGGING: &str = "\
log4j.rootLogger=INFO,out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %c{1}: %m%n
";

/// A NameNode and the DataNode that keeps its blocks.
pub struct Hdfs {
    name_node: Server,
    data_node: Server,
    /// Where the NameNode answers questions about itself.
    status_port: u16,
}

impl Hdfs {
    /// Starts an empty one, and waits until it takes files.
    pub fn start() -> Result<Hdfs> {
        let jars = jars()?;
        let (port, status_port) = (free_port()?, free_port()?);
        let class_path = jars.clone();
        let prepare = |directory: &Path| {
            configure(directory, port, &[("dfs.namenode.http-address", format!("127.0.0.1:{status_port}"))])?;
            let mut format = hadoop(directory, &class_path, NAME_NODE);
            format.args(["-format", "-nonInteractive"]);
            run(&format, Account::Ours)
        };
        let class_path = jars.clone();
        let name_node = Server::start_at("name-node", Account::Ours, port, prepare, move |directory, _| {
            hadoop(directory, &class_path, NAME_NODE)
        })?;
        let data_port = free_port()?;
        let prepare = |directory: &Path| {
            configure(directory, port, &[("dfs.datanode.address", format!("127.0.0.1:{data_port}"))])
        };
        let data_node =
            Server::start_at("data-node", Account::Ours, data_port, prepare, move |directory, _| {
                hadoop(directory, &jars, DATA_NODE)
            })?;
        let mut hdfs = Hdfs { name_node, data_node, status_port };
        hdfs.wait(1)?;
        Ok(hdfs)
    }

    /// The address of a directory in it.
    pub fn url(&self, directory: &str) -> String {
        format!("hdfs://127.0.0.1:{}/{directory}", self.name_node.port())
    }

    /// `kill -9` of the NameNode: nothing is found any more.
    pub fn kill_name_node(&mut self) {
        self.name_node.kill();
    }

    /// `kill -9` of the DataNode: what was written can be neither read nor added to.
    pub fn kill_data_node(&mut self) {
        self.data_node.kill();
    }

    /// Starts the NameNode again, and waits until it has heard from the DataNode, which must run.
    pub fn restart_name_node(&mut self) -> Result<()> {
        self.name_node.restart()?;
        self.wait(1)
    }

    /// Starts the DataNode again, and waits until the NameNode, which must run, has heard from it.
    pub fn restart_data_node(&mut self) -> Result<()> {
        // It has not noticed that the DataNode was gone, so that only a further report tells.
        let before = self.status()?.block_reports;
        self.data_node.restart()?;
        self.wait(before + 1)
    }

    /// Asks until files are taken and this many reports came.
    fn wait(&mut self, block_reports: u64) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            self.name_node.check()?;
            self.data_node.check()?;
            let status = self.status();
            if status.as_ref().is_ok_and(|status| status.writable && status.block_reports >= block_reports) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let (one, two) = (self.name_node.log_tail(), self.data_node.log_tail());
                bail!("HDFS does not come up: {status:?}\n{one}\n{two}");
            }
            std::thread::sleep(START_POLL);
        }
    }

    fn status(&self) -> Result<Status> {
        let state = self.ask("FSNamesystemState")?;
        let activity = self.ask("NameNodeActivity")?;
        // In safe mode, it answers questions only.
        let writable = value(&state, "FSState") == Some("Operational");
        let reports =
            value(&activity, "BlockReportNumOps").or_else(|| value(&activity, "StorageBlockReportNumOps"));
        let reports = reports.with_context(|| format!("no count of block reports in {activity}"))?;
        Ok(Status { writable, block_reports: reports.parse()? })
    }

    /// One of the NameNode's management beans, as JSON.
    fn ask(&self, bean: &str) -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.status_port))?;
        stream.set_read_timeout(Some(START_PATIENCE))?;
        write!(stream, "GET /jmx?qry=Hadoop:service=NameNode,name={bean} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// What the NameNode says of itself.
#[derive(Debug)]
struct Status {
    writable: bool,
    block_reports: u64,
}

/// The value of a field of flat JSON, one field a line, as Hadoop writes it.
fn value<'json>(json: &'json str, name: &str) -> Option<&'json str> {
    let prefix = format!("\"{name}\" : ");
    let line = json.lines().find_map(|line| line.trim().strip_prefix(prefix.as_str()))?;
    Some(line.trim_end_matches(',').trim_matches('"'))
}

/// Where `.ci/tools hdfs` puts Hadoop.
fn jars() -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/hdfs/jars");
    ensure!(path.exists(), "{} is missing: run `.ci/tools hdfs`, as `make test` does", path.display());
    Ok(path)
}

/// Configuration for a node in this directory, of the NameNode at this port.
fn configure(directory: &Path, port: u16, own: &[(&str, String)]) -> Result<()> {
    let local = |name: &str| format!("file://{}/{name}", directory.display());
    let common = [
        ("fs.defaultFS", format!("hdfs://127.0.0.1:{port}")),
        ("hadoop.tmp.dir", directory.join("tmp").display().to_string()),
        ("dfs.replication", "1".to_owned()),
        ("dfs.namenode.name.dir", local("name")),
        ("dfs.datanode.data.dir", local("data")),
        ("dfs.datanode.http.address", "127.0.0.1:0".to_owned()),
        ("dfs.datanode.ipc.address", "127.0.0.1:0".to_owned()),
        // No names are looked up: a machine without a network has none.
        ("dfs.datanode.hostname", "localhost".to_owned()),
        ("dfs.namenode.datanode.registration.ip-hostname-check", "false".to_owned()),
        // How soon a NameNode that was started again hears from the DataNode, and how long it waits for more.
        ("dfs.heartbeat.interval", "1".to_owned()),
        ("dfs.namenode.safemode.extension", "0".to_owned()),
    ];
    let properties: String = common
        .iter()
        .chain(own)
        .map(|(name, value)| format!("<property><name>{name}</name><value>{value}</value></property>\n"))
        .collect();
    let site = format!("<configuration>\n{properties}</configuration>\n");
    std::fs::write(directory.join("core-site.xml"), &site)?;
    std::fs::write(directory.join("hdfs-site.xml"), &site)?;
    std::fs::write(directory.join("log4j.properties"), LOGGING)?;
    std::fs::create_dir(directory.join("tmp"))?;
    // The web pages, which nobody looks at, must be there.
    for name in ["hdfs", "datanode", "static"] {
        let pages = directory.join("webapps").join(name).join("WEB-INF");
        std::fs::create_dir_all(&pages)?;
        std::fs::write(pages.join("web.xml"), "<web-app/>")?;
    }
    Ok(())
}

fn hadoop(directory: &Path, jars: &Path, class: &str) -> Command {
    let system = JERSEY.map(|name| format!("{SYSTEM_JARS}/{name}")).join(":");
    let mut command = Command::new("java");
    command.args(JAVA_FLAGS).arg(format!("-Djava.io.tmpdir={}", directory.join("tmp").display()));
    command.arg("-cp").arg(format!("{}:{system}:{}/*", directory.display(), jars.display())).arg(class);
    command
}
