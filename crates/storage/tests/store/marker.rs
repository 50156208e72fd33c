//! A store remembers which engine made it, and whether it was made at all.

use std::fs;

use storage::store::{Engine, StoreError};

use crate::harness::{content_after, ingest_up_to, open, read_all, try_open};

for_every_engine!("marker":
    a_store_is_opened_by_the_engine_that_made_it,
    a_store_that_lost_its_marker_or_its_files_is_refused,
    an_interrupted_beginning_is_begun_again,
);

fn a_store_is_opened_by_the_engine_that_made_it(engine: Engine, _test: &str) {
    let directory = tempfile::tempdir().unwrap();
    ingest_up_to(open(engine, directory.path()).as_ref(), 2);
    for other in Engine::ALL.into_iter().filter(|other| *other != engine) {
        let refused = try_open(other, directory.path()).err().unwrap();
        match refused {
            StoreError::OtherEngine { path, found, wanted } => {
                assert_eq!((path.as_path(), found, wanted), (directory.path(), engine, other));
            }
            StoreError::NotBuiltIn(missing) => assert!(missing == other && !other.is_built_in()),
            error => panic!("{error}"),
        }
    }
    assert!(read_all(open(engine, directory.path()).as_ref()).unwrap() == content_after(2));
}

fn a_store_that_lost_its_marker_or_its_files_is_refused(engine: Engine, _test: &str) {
    let directory = tempfile::tempdir().unwrap();
    ingest_up_to(open(engine, directory.path()).as_ref(), 2);
    let marker = directory.path().join("ENGINE");
    let text = fs::read_to_string(&marker).unwrap();
    assert_eq!(text, format!("jigap state store\nengine {engine}\n"));
    for damaged in ["", "jigap state store\nengine leveldb\n", &text[..text.len() - 1], "no store"] {
        fs::write(&marker, damaged).unwrap();
        let refused = try_open(engine, directory.path()).err().unwrap();
        assert!(refused.to_string().contains("its file ENGINE is damaged"), "{refused}");
    }
    fs::remove_file(&marker).unwrap();
    let refused = try_open(engine, directory.path()).err().unwrap();
    assert!(refused.to_string().contains("no file ENGINE that names its engine"), "{refused}");

    let emptied = tempfile::tempdir().unwrap();
    fs::write(emptied.path().join("ENGINE"), text).unwrap();
    assert!(try_open(engine, emptied.path()).is_err(), "an empty store in place of the one that was there");
}

fn an_interrupted_beginning_is_begun_again(engine: Engine, _test: &str) {
    let directory = tempfile::tempdir().unwrap();
    drop(open(engine, directory.path()));
    fs::rename(directory.path().join("ENGINE"), directory.path().join("ENGINE.new")).unwrap();
    fs::write(directory.path().join("CURRENT"), b"half").unwrap();
    fs::write(directory.path().join("current"), b"half").unwrap();
    let store = open(engine, directory.path());
    ingest_up_to(store.as_ref(), 2);
    drop(store);
    assert!(!directory.path().join("ENGINE.new").exists());
    assert!(read_all(open(engine, directory.path()).as_ref()).unwrap() == content_after(2));
}
