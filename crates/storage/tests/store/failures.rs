//! Directories that cannot be used and disks that are full.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use storage::store::{Engine, StoreError};

use crate::harness::{
    child, child_directory, content_after, ingest_up_to, open, read_all, run, runs_in, try_open,
};

for_every_engine!("failures":
    a_directory_that_cannot_be_used_is_named,
    a_read_only_directory_is_an_error_that_names_it,
    a_full_disk_is_an_error_and_loses_nothing,
    a_file_that_may_not_grow_is_an_error_and_loses_nothing,
);

const RUNS: u64 = 10;
const RUNS_MAX: u64 = 1_000;
const PLAIN: &str = r#"exec "$@""#;

fn a_directory_that_cannot_be_used_is_named(engine: Engine, _test: &str) {
    let kept = tempfile::tempdir().unwrap();
    let file = kept.path().join("file");
    fs::write(&file, b"no directory").unwrap();
    for directory in [file.clone(), file.join("below")] {
        let refused = try_open(engine, &directory).err().unwrap();
        assert!(matches!(&refused, StoreError::Io { path, .. } if path.starts_with(&file)), "{refused}");
    }
    let missing = kept.path().join("missing/and/deeper");
    ingest_up_to(open(engine, &missing).as_ref(), 1);
    assert!(read_all(open(engine, &missing).as_ref()).unwrap() == content_after(1));
}

/// Whether this user may mount file systems in a name space of his own.
fn may_mount() -> bool {
    let tried = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).output();
    tried.is_ok_and(|output| output.status.success())
}

/// Runs a child with a file system of its own, mounted over its directory by `mount`.
fn in_mount(test: &str, directory: &Path, mount: &str) -> bool {
    let shell = format!(r#"exec unshare --map-root-user --mount sh -c '{mount} && exec "$@"' sh "$@""#);
    child(test, directory, &shell).env("STORE", directory).status().unwrap().success()
}

fn a_read_only_directory_is_an_error_that_names_it(engine: Engine, test: &str) {
    if let Some(directory) = child_directory() {
        for path in [directory.clone(), directory.join("new")] {
            let refused = try_open(engine, &path).err().unwrap();
            println!("{refused}");
            let named = refused.to_string().contains(directory.to_str().unwrap());
            assert!(named, "{refused}");
        }
        return;
    }
    let kept = tempfile::tempdir().unwrap();
    let directory = kept.path().join("store");
    fs::create_dir(&directory).unwrap();
    if may_mount() {
        assert!(in_mount(test, &directory, "mount -o bind,ro \"$STORE\" \"$STORE\""));
    } else {
        // Permissions bind everybody but root, who may mount.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o555)).unwrap();
        assert!(child(test, &directory, PLAIN).status().unwrap().success());
    }
}

/// Ingests until the disk refuses; then all but the refused run is there, and remains there.
fn fill_up(engine: Engine, directory: &Path) {
    let store = open(engine, directory);
    let refused = (1..RUNS_MAX).find_map(|number| {
        let ingested = store.ingest(run(number)).and_then(|()| store.wait_for_compaction());
        ingested.err().map(|error| (number, error))
    });
    let (number, error) = refused.unwrap();
    println!("run {number}: {error}");
    assert!(error.to_string().contains(directory.to_str().unwrap()), "{error}");
    // The run that met the end is in or not; nothing is in by half.
    let runs = runs_in(store.as_ref()).unwrap();
    assert!(runs + 1 == number || runs == number, "{runs} runs after run {number} was refused");
    assert!(read_all(store.as_ref()).unwrap() == content_after(runs));
}

fn a_full_disk_is_an_error_and_loses_nothing(engine: Engine, test: &str) {
    if let Some(directory) = child_directory() {
        fill_up(engine, &directory);
        // With room again, the store goes on from the run that it has.
        let remount = ["-o", "remount,size=64m"];
        assert!(Command::new("mount").args(remount).arg(&directory).status().unwrap().success());
        let store = open(engine, &directory);
        let runs = runs_in(store.as_ref()).unwrap();
        assert!(read_all(store.as_ref()).unwrap() == content_after(runs));
        ingest_up_to(store.as_ref(), runs + 5);
        assert!(read_all(store.as_ref()).unwrap() == content_after(runs + 5));
        return;
    }
    if !may_mount() {
        println!("this user may not mount a small file system: left to the test of files that may not grow");
        return;
    }
    let kept = tempfile::tempdir().unwrap();
    assert!(in_mount(test, kept.path(), "mount -t tmpfs -o size=6m store \"$STORE\""));
}

fn a_file_that_may_not_grow_is_an_error_and_loses_nothing(engine: Engine, test: &str) {
    if let Some(directory) = child_directory() {
        return fill_up(engine, &directory);
    }
    let kept = tempfile::tempdir().unwrap();
    ingest_up_to(open(engine, kept.path()).as_ref(), RUNS);
    fs::remove_dir_all(kept.path()).unwrap();
    // 300 blocks of 512 bytes; the signal that comes with it is ignored, so that the write fails.
    let limited = child(test, kept.path(), r#"trap '' XFSZ; ulimit -f 300; exec "$@""#).status().unwrap();
    assert!(limited.success());
    let store = open(engine, kept.path());
    let runs = runs_in(store.as_ref()).unwrap();
    assert!(read_all(store.as_ref()).unwrap() == content_after(runs));
    ingest_up_to(store.as_ref(), runs + 5);
    assert!(read_all(store.as_ref()).unwrap() == content_after(runs + 5));
}
