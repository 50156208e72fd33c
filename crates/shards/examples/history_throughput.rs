//! How many recorded events a second are replayed and verified.
//!
//! `cargo run --release -p shards --example partition_throughput -- 20 1000000 8190 DIR` makes a history, and then
//! `cargo run --release -p shards --example history_throughput -- replay|verify|upgrade-check DIR` reads it.

use std::time::Instant;

use shards::partition::{Moment, Options, ReplayOptions, Source, check_upgrade, replay, verify};
use storage::memory::HugePages;

/// As the binary has it.
#[global_allocator]
static ALLOCATOR: HugePages<std::alloc::System> = HugePages(std::alloc::System);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (what, directory) = (arguments.next().expect("what to do"), arguments.next().expect("a directory"));
    let source = Source::Directory { directory: directory.clone().into(), archive: None };
    let started = Instant::now();
    let (events, digest) = match what.as_str() {
        "replay" => {
            let options = ReplayOptions { source, until: Moment::Latest, digest_every: None };
            let report = replay(&options, &mut |_, _| {}, &mut |_| {}).expect("it is replayed");
            (report.end.sequence, report.end.digest)
        }
        "verify" => {
            let report = verify(&Options::new(directory.into()), &mut |_, _| {}).expect("it proves itself");
            (report.sequence, report.digest)
        }
        "upgrade-check" => {
            let report = check_upgrade(&source, 0, &mut |_, _| {}).expect("nothing differs");
            (report.sequence, report.digest)
        }
        other => panic!("{other}: replay, verify or upgrade-check"),
    };
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{what}: {} events in {seconds:.2} s, {:.0} events/s, digest {digest}",
        events.0,
        events.0 as f64 / seconds
    );
}
