//! Real servers on loopback: what tests run against, and what `make compare` measures.
//!
//! Each [`Server`] has a temporary directory and a free port of its own, runs as an unprivileged user, and ends with the value that started it
//! (and, by a parent-death signal, with the thread that started it: start servers on a thread that lives as long as they are needed).
//! [`Server::kill`] is `kill -9`; [`Server::restart`] starts it again on the same port with the same data.

mod databases;
mod hdfs;
mod process;
mod services;

pub use databases::{mariadb, postgres};
pub use hdfs::Hdfs;
pub use process::Server;
pub use services::{nats, redis, zookeeper};
