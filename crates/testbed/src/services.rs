//! Redis, ZooKeeper and NATS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process::{Account, Server, free_port, give_away};

/// How long an ensemble may take until it has a leader.
const ZOOKEEPER_PATIENCE: Duration = Duration::from_secs(60);

/// A Redis server that syncs every write before it answers, and its URL.
pub fn redis() -> Result<(Server, String)> {
    let server = Server::start(
        "redis",
        |_| Ok(()),
        |directory, port| {
            let mut command = Command::new("redis-server");
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
            command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(directory);
            command
        },
    )?;
    let url = format!("redis://127.0.0.1:{}", server.port());
    Ok((server, url))
}

/// A ZooKeeper ensemble of so many nodes, and its URL.
pub fn zookeeper(nodes: usize) -> Result<(Vec<Server>, String)> {
    let mut ports = Vec::new();
    for _ in 0..nodes {
        ports.push([free_port()?, free_port()?, free_port()?]);
    }
    let mut members: String = (1..=nodes)
        .zip(&ports)
        .map(|(number, [_, peer, election])| format!("server.{number}=127.0.0.1:{peer}:{election}\n"))
        .collect();
    if nodes == 1 {
        members.clear();
    }
    let mut starting = Vec::new();
    for (number, [client, ..]) in (1..=nodes).zip(ports.clone()) {
        let members = members.clone();
        let prepare = move |directory: &Path| {
            let data = directory.join("data");
            std::fs::create_dir(&data)?;
            std::fs::write(data.join("myid"), number.to_string())?;
            give_away(&data)?;
            let configuration = format!(
                "tickTime=500\ninitLimit=10\nsyncLimit=4\ndataDir={}\nclientPort={client}\nclientPortAddress=127.0.0.1\n\
                 admin.enableServer=false\n{members}",
                data.display()
            );
            Ok(std::fs::write(directory.join("zoo.cfg"), configuration)?)
        };
        let main = if nodes == 1 { "ZooKeeperServerMain" } else { "quorum.QuorumPeerMain" };
        starting.push(Server::start_at(
            "zookeeper",
            Account::Unprivileged,
            client,
            prepare,
            move |directory, _| {
                let mut command = Command::new("java");
                command.args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
                command.arg(format!("{}:/usr/share/java/zookeeper.jar", directory.display()));
                command.arg(format!("org.apache.zookeeper.server.{main}")).arg(directory.join("zoo.cfg"));
                command
            },
        )?);
    }
    for [client, ..] in &ports {
        wait_until_zookeeper_serves(*client)?;
    }
    let hosts: Vec<String> = ports.iter().map(|[client, ..]| format!("127.0.0.1:{client}")).collect();
    Ok((starting, format!("zookeeper://{}", hosts.join(","))))
}

/// Its port is open before it serves, and before there is a leader.
fn wait_until_zookeeper_serves(port: u16) -> Result<()> {
    let deadline = Instant::now() + ZOOKEEPER_PATIENCE;
    while Instant::now() < deadline {
        let mut told = String::new();
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port))
            // One that is asked too early may never answer.
            && stream.set_read_timeout(Some(Duration::from_millis(500))).is_ok()
            && stream.write_all(b"srvr").is_ok()
            && stream.read_to_string(&mut told).is_ok()
            && told.contains("Mode:")
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("the ZooKeeper at port {port} does not serve")
}

/// A NATS server with JetStream, and its URL.
pub fn nats() -> Result<(Server, String)> {
    let server = Server::start(
        "nats",
        |_| Ok(()),
        |directory, port| {
            let mut command = Command::new("nats-server");
            command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]).arg(directory);
            command
        },
    )?;
    let url = format!("nats://127.0.0.1:{}", server.port());
    Ok((server, url))
}
