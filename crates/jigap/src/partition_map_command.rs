//! `jigap partition-map`: where the partitions of a wallet over Redis are.

use anyhow::Context;
use distributed::partition_map::{PartitionMap, PartitionMapError, ZooKeeper};
use distributed::redacted;
use serde_json::json;

use crate::cli::{Output, PartitionMapSubject};
use crate::exit::{Exit, Failure};
use crate::output::{print_json, print_line};

/// Runs `jigap partition-map ...`.
pub(crate) fn run(subject: &PartitionMapSubject) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the connection")?;
    match subject {
        PartitionMapSubject::Show { zookeeper, output } => {
            let shown = runtime.block_on(async {
                let zookeeper = ZooKeeper::parse(zookeeper)?;
                Ok((zookeeper.read().await?, zookeeper.wallets().await?))
            });
            let (map, wallets) = shown.map_err(failure)?;
            Ok(show(&map, &wallets, output.choose())?)
        }
        PartitionMapSubject::Set { zookeeper, partitions, output } => {
            let map = PartitionMap { partitions: partitions.clone() };
            let published = runtime.block_on(async { ZooKeeper::parse(zookeeper)?.publish(&map).await });
            published.map_err(failure)?;
            Ok(show(&map, &[], output.choose())?)
        }
    }
}

fn failure(error: PartitionMapError) -> Failure {
    let exit = match &error {
        PartitionMapError::Address(_)
        | PartitionMapError::OtherCount { .. }
        | PartitionMapError::Malformed { .. } => Exit::Usage,
        PartitionMapError::ZooKeeper { .. } | PartitionMapError::Missing(_) => Exit::Unavailable,
    };
    Failure::new(exit, error)
}

fn show(map: &PartitionMap, wallets: &[String], output: Output) -> std::io::Result<()> {
    let partitions: Vec<String> = map.partitions.iter().map(|address| redacted(address)).collect();
    match output {
        Output::Programs => print_json(&json!({ "partitions": partitions, "wallets": wallets })),
        Output::People => {
            for (number, address) in partitions.iter().enumerate() {
                print_line(&format!("partition {number}  {address}"))?;
            }
            wallets.iter().try_for_each(|wallet| print_line(&format!("wallet {wallet} runs")))
        }
    }
}
