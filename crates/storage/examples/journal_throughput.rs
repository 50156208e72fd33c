//! How fast the journal takes frames in and gives them back, everything durable:
//! `cargo run --release -p storage --example journal_throughput -- [direct|mmap] [body size in bytes] [MiB in all] [directory]`

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Instant;

use storage::journal::{DiskKind, FrameDraft, Journal, Options, Reader, Sequence, Term};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let kind = match arguments.next().as_deref() {
        Some("mmap") => DiskKind::Mmap,
        _ => DiskKind::Direct,
    };
    let body_size_bytes: usize = arguments.next().map_or(Ok(450 << 10), |text| text.parse())?;
    let total_mib: usize = arguments.next().map_or(Ok(4096), |text| text.parse())?;
    let parent = arguments.next().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let directory = tempfile::tempdir_in(parent)?;
    let frames = (total_mib << 20) / body_size_bytes;

    let on_fatal = Box::new(|error| panic!("{error}"));
    let (journal, _) = Journal::open(directory.path(), Options::default(), kind.disk(), on_fatal)?;
    let content: Vec<u8> = (0..body_size_bytes).map(|position| (position * 31 % 251) as u8).collect();
    let (durable, latencies_us) = channel();
    let begun = Instant::now();
    for frame in 0..frames as u64 {
        let mut body = journal.buffer();
        body.extend_from_slice(&content);
        let draft = FrameDraft {
            term: Term(1),
            first_sequence: Sequence(1 + frame),
            sequence_count: 1,
            timestamp_us: 0,
            body,
        };
        let (durable, handed_over) = (durable.clone(), Instant::now());
        let on_durable = move |_| {
            durable.send(handed_over.elapsed().as_micros()).expect("the other side waits for every frame");
        };
        journal.append(draft, Box::new(on_durable))?;
    }
    drop(journal);
    let seconds = begun.elapsed().as_secs_f64();
    drop(durable);
    let mut latencies_us: Vec<_> = latencies_us.iter().collect();
    latencies_us.sort_unstable();
    let written_gb = (frames * body_size_bytes) as f64 / 1e9;
    println!(
        "{kind:?}: appended {frames} frames of {body_size_bytes} bytes, {written_gb:.1} GB, at {:.2} GB/s, {:.0} frames/s; \
         handed over to durable p50 {:.2} ms, p99 {:.2} ms",
        written_gb / seconds,
        frames as f64 / seconds,
        latencies_us[frames / 2] as f64 / 1e3,
        latencies_us[frames * 99 / 100] as f64 / 1e3,
    );

    let opened = Instant::now();
    let (reader, recovered) = Reader::open_read_only(directory.path())?;
    println!("opened in {:.1} ms", opened.elapsed().as_secs_f64() * 1e3);
    for pass in ["from the disk", "from the page cache"] {
        let begun = Instant::now();
        let mut read = 0;
        for frame in reader.frames_from(recovered.first_index) {
            read += frame?.body().len();
        }
        let seconds = begun.elapsed().as_secs_f64();
        assert_eq!(read, frames * body_size_bytes);
        println!("replayed {pass} at {:.2} GB/s", read as f64 / 1e9 / seconds);
    }
    Ok(())
}
