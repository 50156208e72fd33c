//! `jigap snapshot`, `jigap restore` and `jigap fork`: what is in the archive, and data directories made of recorded history.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow};
use api::{format_timestamp, parse_timestamp};
use ledger::{Sequence, Timestamp};
use serde_json::{Value, json};
use shards::partition::{
    self, Extent, Moment, RestoreError, RestoreOptions, Restored, SnapshotError, Source, verify_snapshot,
};
use storage::archive::ArchiveError;
use storage::objects::{ObjectError, Objects, Purpose};
use storage::snapshot::{self, Snapshot};

use crate::cli::{
    ArchiveArguments, ForkArguments, MomentArguments, Output, RestoreArguments, SnapshotSubject,
};
use crate::client::{self, Ask};
use crate::data_directory::DataDirectory;
use crate::exit::{Exit, Failure, OrExit};
use crate::journal::{self, source_exit};
use crate::output::{print_json, print_line, print_table, table};
use crate::progress::Progress;
use crate::settings::Settings;

/// The partition of a single node.
const PARTITION: u32 = 0;

/// The archive that the settings name. `None` when it is off, or when it is to be read and was never written.
pub(crate) fn open(
    settings: &Settings,
    directory: &Path,
    purpose: Purpose,
) -> Result<Option<Objects>, Failure> {
    let url = match settings.text("archive-url") {
        "off" => return Ok(None),
        "local" => {
            let path = directory.join("archive");
            if purpose == Purpose::Read && !path.exists() {
                return Ok(None);
            }
            let path =
                std::path::absolute(&path).with_context(|| format!("cannot use {}", path.display()))?;
            format!("file://{}", path.display())
        }
        url => url.to_owned(),
    };
    Objects::open(&url, purpose).map(Some).map_err(|error| Failure::new(object_exit(&error), error))
}

pub(crate) fn object_exit(error: &ObjectError) -> Exit {
    match error {
        ObjectError::Address { .. } | ObjectError::Denied { .. } => Exit::Usage,
        ObjectError::Unavailable { .. } => Exit::Unavailable,
        ObjectError::Missing { .. } => Exit::Damaged,
    }
}

fn snapshot_exit(error: &SnapshotError) -> Exit {
    match error {
        SnapshotError::Objects(snapshot::SnapshotError::Object(error)) => object_exit(error),
        SnapshotError::Archive(ArchiveError::Object(error)) => object_exit(error),
        _ => Exit::Damaged,
    }
}

fn restore_exit(error: &RestoreError) -> Exit {
    match error {
        RestoreError::Source(error) => source_exit(error),
        RestoreError::NoStart { .. } | RestoreError::Body { .. } => Exit::Damaged,
        RestoreError::Snapshot(error) => snapshot_exit(error),
        RestoreError::OutOfRange { .. } | RestoreError::MidCommand { .. } => Exit::Usage,
        _ => Exit::Directory,
    }
}

/// `jigap snapshot ...`
pub(crate) fn snapshot(subject: &SnapshotSubject) -> Result<(), Failure> {
    match subject {
        SnapshotSubject::Create { client } => client::run(&Ask::snapshot(), client),
        SnapshotSubject::List(arguments) => list(arguments),
        SnapshotSubject::Verify { sequence, archive } => verify(*sequence, archive),
    }
}

fn objects_of(arguments: &ArchiveArguments) -> Result<Objects, Failure> {
    let settings = Settings::load(&arguments.directory.0)?;
    let objects = open(&settings, &settings.path("data-dir"), Purpose::Read)?;
    objects.ok_or_else(|| Failure::usage("there is no archive; name one with --archive-url"))
}

/// What is known of a snapshot: its folder, and its manifest or what is wrong with it.
struct Known {
    folder: String,
    snapshot: Result<Snapshot, snapshot::SnapshotError>,
}

fn known(objects: &Objects) -> Result<Vec<Known>, Failure> {
    let names =
        Snapshot::list(objects, PARTITION).map_err(|error| Failure::new(object_exit(&error), error))?;
    let open = |name: snapshot::SnapshotName| {
        let snapshot = Snapshot::open(objects, &name.folder);
        Known { folder: name.folder, snapshot }
    };
    Ok(names.into_iter().map(open).collect())
}

fn list(arguments: &ArchiveArguments) -> Result<(), Failure> {
    let objects = objects_of(arguments)?;
    let known = known(&objects)?;
    if arguments.output.choose() == Output::Programs {
        let rows: Vec<Value> = known.iter().map(document).collect();
        return Ok(print_json(&json!({ "archive": objects.url(), "snapshots": rows }))?);
    }
    let mut rows = table(&["sequence", "as of", "accounts", "bytes", "digest"]);
    for Known { folder, snapshot } in &known {
        match snapshot {
            Err(error) => rows.add_row([folder, &error.to_string()]),
            Ok(snapshot) => {
                let subject = &snapshot.manifest.subject;
                rows.add_row([
                    subject.sequence.to_string(),
                    format_timestamp(Timestamp::from_micros(subject.timestamp_us)),
                    subject.accounts.to_string(),
                    snapshot.manifest.size_bytes().to_string(),
                    subject.digest.clone(),
                ])
            }
        };
    }
    Ok(print_table(&rows)?)
}

fn document(known: &Known) -> Value {
    match &known.snapshot {
        Err(error) => json!({ "folder": known.folder, "error": error.to_string() }),
        Ok(snapshot) => {
            let (manifest, subject) = (&snapshot.manifest, &snapshot.manifest.subject);
            json!({
                "folder": known.folder,
                "partition": subject.partition,
                "sequence": subject.sequence,
                "as_of": format_timestamp(Timestamp::from_micros(subject.timestamp_us)),
                "digest": subject.digest,
                "accounts": subject.accounts,
                "transaction_ids": subject.ids,
                "size_bytes": manifest.size_bytes(),
                "parts": manifest.parts.len(),
                "created_at": format_timestamp(Timestamp::from_micros(manifest.created_us)),
            })
        }
    }
}

fn verify(sequence: Option<u64>, arguments: &ArchiveArguments) -> Result<(), Failure> {
    let objects = objects_of(arguments)?;
    let mut known = known(&objects)?;
    if let Some(sequence) = sequence {
        known.retain(|known| known.folder.contains(&format!("/{sequence:020}-")));
    }
    if known.is_empty() {
        return Err(Failure::usage(format!("{}: there is no such snapshot", objects.url())));
    }
    let mut worst: Option<(Exit, String)> = None;
    let mut results = Vec::new();
    for Known { folder, snapshot } in known {
        let verified = snapshot.map_err(SnapshotError::from).and_then(|snapshot| verify_snapshot(&snapshot));
        match &verified {
            Ok(digest) => {
                results.push(json!({ "folder": folder, "verified": true, "digest": digest.to_string() }))
            }
            Err(error) => {
                results.push(json!({ "folder": folder, "verified": false, "error": error.to_string() }));
                worst.get_or_insert((snapshot_exit(error), error.to_string()));
            }
        }
    }
    match arguments.output.choose() {
        Output::Programs => print_json(&json!({ "archive": objects.url(), "snapshots": results }))?,
        Output::People => {
            for result in &results {
                let text = |name: &str| result[name].as_str().unwrap_or_default().to_owned();
                let word = if result["verified"] == true { "whole" } else { "DAMAGED" };
                print_line(&format!("{word}  {}  {}", text("folder"), text("error")))?;
            }
        }
    }
    worst.map_or(Ok(()), |(exit, why)| Err(Failure::new(exit, anyhow!("not verified: {why}"))))
}

impl MomentArguments {
    fn choose(&self) -> Result<Moment, Failure> {
        match (&self.at_sequence, &self.at) {
            (Some(sequence), _) => Ok(Moment::Sequence(Sequence(*sequence))),
            (None, None) => Ok(Moment::Latest),
            (None, Some(text)) => {
                let time = parse_timestamp(text);
                let wrong =
                    || Failure::usage(format!("--at: {text:?} is no time such as 2026-01-02T03:04:05Z"));
                Ok(Moment::Time(time.ok_or_else(wrong)?))
            }
        }
    }
}

/// `jigap restore`
pub(crate) fn restore(arguments: &RestoreArguments) -> Result<(), Failure> {
    let moment = arguments.moment.choose()?;
    let objects = Objects::open(&arguments.from, Purpose::Read);
    let objects = objects.map_err(|error| Failure::new(object_exit(&error), error))?;
    let source = Source::Archive { objects, partition: PARTITION };
    let started = Instant::now();
    let mut template = partition::Options::new(PathBuf::new());
    template.store_engine = arguments.state_store;
    let restored = build("restoring", source, moment, Extent::AfterSnapshot, &arguments.to, template)?;
    report(&restored, started.elapsed(), arguments).or_exit(Exit::Failed)
}

/// `jigap fork`
pub(crate) fn fork(arguments: &ForkArguments) -> Result<(), Failure> {
    let moment = arguments.moment.choose()?;
    let settings = Settings::load(&arguments.directory.0)?;
    let source = journal::source(&settings, arguments.from.as_deref())?;
    let started = Instant::now();
    let mut template = partition::Options::new(PathBuf::new());
    template.store_engine = settings.store_engine();
    template.store_cache_size_bytes = settings.number("store-cache-size");
    let forked = build("forking", source, moment, Extent::Whole, &arguments.to, template)?;
    report_fork(&forked, started.elapsed(), arguments).or_exit(Exit::Failed)
}

/// Builds the data directory, and says that it is whole only when it is.
fn build(
    what: &'static str,
    source: Source,
    moment: Moment,
    extent: Extent,
    to: &Path,
    template: partition::Options,
) -> Result<Restored, Failure> {
    let directory = DataDirectory::begin(to)?;
    let partition =
        partition::Options { directory: directory.partition(PARTITION), partition: PARTITION, ..template };
    let options = RestoreOptions { source, moment, extent, partition };
    let mut progress = Progress::new(what);
    let restored = partition::restore(&options, &mut |done, last| progress.report(done.0, last.0));
    progress.finish();
    let restored = restored.map_err(|error| Failure::new(restore_exit(&error), error))?;
    directory.complete()?;
    for skipped in &restored.skipped {
        eprintln!("jigap: passed over: {skipped}");
    }
    Ok(restored)
}

fn report_fork(forked: &Restored, elapsed: Duration, arguments: &ForkArguments) -> std::io::Result<()> {
    let (as_of, to) = (format_timestamp(forked.timestamp), arguments.to.display().to_string());
    if arguments.output.choose() == Output::Programs {
        return print_json(&json!({
            "forked": true,
            "data_dir": to,
            "partition": PARTITION,
            "sequence": forked.sequence.0,
            "as_of": as_of,
            "digest": forked.digest.to_string(),
            "start_sequence": forked.snapshot.0,
            "events_replayed": forked.replayed,
            "recorded_sequence": forked.recorded.0,
            "seconds": elapsed.as_secs_f64(),
            "passed_over": forked.skipped,
        }));
    }
    let left_out = forked.recorded.0 - forked.sequence.0;
    print_line(&format!("forked         {to}"))?;
    print_line(&format!(
        "as of          event {}, {as_of}; {left_out} later ones are left out",
        forked.sequence.0
    ))?;
    print_line(&format!("digest         {}", forked.digest))?;
    print_line(&format!("time           {:.2} s", elapsed.as_secs_f64()))?;
    print_line(&format!(
        "try it with    jigap serve --data-dir {to} --listen 127.0.0.1:9080 --grpc-listen 127.0.0.1:9081"
    ))
}

/// RPO: how old the last restored event is; whatever came after it is not in the restored directory. RTO: how long it took.
fn report(restored: &Restored, elapsed: Duration, arguments: &RestoreArguments) -> std::io::Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    let age_seconds =
        now.saturating_sub(u128::try_from(restored.timestamp.as_micros()).unwrap_or(0)) as f64 / 1e6;
    let (as_of, to) = (format_timestamp(restored.timestamp), arguments.to.display().to_string());
    if arguments.output.choose() == Output::Programs {
        return print_json(&json!({
            "restored": true,
            "data_dir": to,
            "partition": PARTITION,
            "sequence": restored.sequence.0,
            "as_of": as_of,
            "digest": restored.digest.to_string(),
            "snapshot_sequence": restored.snapshot.0,
            "events_replayed": restored.replayed,
            "archived_sequence": restored.recorded.0,
            "recovery_point_age_seconds": age_seconds,
            "recovery_time_seconds": elapsed.as_secs_f64(),
            "passed_over": restored.skipped,
        }));
    }
    let left_out = restored.recorded.0 - restored.sequence.0;
    print_line(&format!("restored       {to}"))?;
    print_line(&format!("as of          event {}, {as_of}", restored.sequence.0))?;
    print_line(&format!("digest         {}", restored.digest))?;
    print_line(&format!(
        "from           snapshot of event {}, then {} events",
        restored.snapshot.0, restored.replayed
    ))?;
    print_line(&format!(
        "recovery point {age_seconds:.1} s ago; {left_out} later events are in the archive and left out"
    ))?;
    print_line(&format!("recovery time  {:.2} s", elapsed.as_secs_f64()))?;
    print_line(&format!("go on with     jigap serve --data-dir {to} --archive-url {}", arguments.from))
}
