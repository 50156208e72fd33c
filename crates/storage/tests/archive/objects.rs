//! What every store of objects must do, run against each kind for real.

use bytes::Bytes;
use storage::objects::{ObjectError, Objects, Purpose, Written};

/// The whole contract.
fn assert_conforms(objects: &Objects) {
    let content = Bytes::from_static(b"0123456789");
    assert!(matches!(objects.get("a/b/one"), Err(ObjectError::Missing { path, .. }) if path == "a/b/one"));
    assert_eq!(objects.put_new("a/b/one", content.clone()).unwrap(), Written::New);
    assert_eq!(objects.put_new("a/b/one", Bytes::from_static(b"other")).unwrap(), Written::Existed);
    assert_eq!(objects.get("a/b/one").unwrap(), content, "an object never changes");
    assert_eq!(objects.get_range("a/b/one", 3..6).unwrap(), Bytes::from_static(b"345"));
    assert!(objects.get_range("a/b/one", 8..12).is_err(), "too few bytes are an error");
    let large = Bytes::from(vec![7; 5 << 20]);
    assert_eq!(objects.put_new("a/c/two", large.clone()).unwrap(), Written::New);
    assert_eq!(objects.get("a/c/two").unwrap(), large);
    objects.put_new("b/three", content).unwrap();
    let names: Vec<_> = objects.list("a").unwrap().into_iter().map(|listed| listed.path).collect();
    assert_eq!(names, ["a/b/one", "a/c/two"]);
    assert_eq!(objects.list("a").unwrap()[1].size_bytes, 5 << 20);
    assert_eq!(objects.folders("a").unwrap(), ["b", "c"]);
    assert!(objects.list("nowhere").unwrap().is_empty());
    objects.remove("a/b/one").unwrap();
    objects.remove("a/b/one").unwrap();
    assert_eq!(objects.folders("a").unwrap(), ["c"]);
    assert_one_writer_wins(objects);
    for size in [0, 1, 4095, 4096, 4097, 1 << 20, (3 << 20) + 1234] {
        assert_comparison(objects, size);
    }
}

/// An object holds what was written, and nothing that differs by a byte anywhere or by its length.
fn assert_comparison(objects: &Objects, size: usize) {
    let path = format!("compared/{size}");
    let content: Vec<u8> = (0..size).map(|at| (at / 4096 * 31 + at) as u8).collect();
    let holds = |content: Vec<u8>| objects.holds(&path, &content.into()).unwrap();
    assert!(matches!(objects.holds(&path, &Bytes::new()), Err(ObjectError::Missing { .. })));
    objects.put_new(&path, content.clone().into()).unwrap();
    assert_eq!(objects.get(&path).unwrap(), content);
    assert!(holds(content.clone()));
    assert!(!holds([&content[..], &[0]].concat()));
    for at in [0, size / 2, size.saturating_sub(1)] {
        let mut other = content.clone();
        if let Some(byte) = other.get_mut(at) {
            *byte ^= 1;
            assert!(!holds(other));
            assert!(!holds(content[..at].to_vec()));
        }
    }
    objects.remove(&path).unwrap();
}

/// Of many that write one object at once, one does, and everybody reads what it wrote.
fn assert_one_writer_wins(objects: &Objects) {
    let race = |number: u8| {
        let content = Bytes::from(vec![number; 100_000]);
        (number, objects.put_new("race/object", content).unwrap())
    };
    let race = &race;
    let written: Vec<(u8, Written)> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8).map(|number| scope.spawn(move || race(number))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let winners: Vec<u8> =
        written.iter().filter(|(_, written)| *written == Written::New).map(|(number, _)| *number).collect();
    let [winner] = winners[..] else { panic!("{written:?}") };
    assert_eq!(objects.get("race/object").unwrap(), Bytes::from(vec![winner; 100_000]));
    assert_eq!(objects.list("race").unwrap().len(), 1);
}

#[cfg(feature = "hdfs")]
#[test]
fn hdfs_conforms_over_kill_9() {
    let mut hdfs = testbed::Hdfs::start().unwrap();
    // As in a wallet that ends: the archive outlives the runtime of whoever opened it.
    let elsewhere = tokio::runtime::Runtime::new().unwrap();
    let url = hdfs.url("some/archive");
    let opening = elsewhere.spawn_blocking(move || {
        let objects = Objects::open(&url, Purpose::Write).unwrap();
        assert!(matches!(objects.get("one"), Err(ObjectError::Missing { .. })));
        objects
    });
    let objects = elsewhere.block_on(opening).unwrap();
    drop(elsewhere);
    assert!(objects.list("").unwrap().is_empty(), "a directory that is missing has no objects");
    assert_conforms(&objects);
    // A write that was cut off is no object, and is taken away.
    let half = "a/c/two.draft-0123456789abcdef";
    objects.put_new(half, Bytes::from_static(b"half")).unwrap();
    assert_eq!(objects.list("a").unwrap().len(), 1);
    objects.remove_drafts().unwrap();
    assert!(matches!(objects.get(half), Err(ObjectError::Missing { .. })));
    assert_eq!(objects.list("").unwrap().len(), 3);

    // Without a disk to read or write at, there is an error in time that says so, and neither an object nor a draft.
    let three = Bytes::from_static(b"three");
    hdfs.kill_data_node();
    let failed = objects.put_new("a/c/three", three.clone()).unwrap_err();
    assert_unavailable(&failed, "write a/c/three", "disk of a DataNode: Connection refused");
    assert_unavailable(&objects.get("a/c/two").unwrap_err(), "read a/c/two", "All DataNodes failed");
    assert!(matches!(objects.get("a/c/three"), Err(ObjectError::Missing { .. })));
    hdfs.restart_data_node().unwrap();
    assert_eq!(objects.put_new("a/c/three", three.clone()).unwrap(), Written::New);

    // Without the one that knows the names, nothing is said to be missing.
    hdfs.kill_name_node();
    let failed = objects.put_new("a/c/four", three.clone()).unwrap_err();
    assert_unavailable(&failed, "write a/c/four", "Connection refused");
    assert_unavailable(&objects.list("a").unwrap_err(), "list a", "Connection refused");
    hdfs.restart_name_node().unwrap();
    assert_eq!(objects.put_new("a/c/three", Bytes::from_static(b"other")).unwrap(), Written::Existed);
    assert_eq!(objects.get("a/c/three").unwrap(), three);
    assert_eq!(objects.get("a/c/two").unwrap().len(), 5 << 20);
    assert_eq!(objects.list("").unwrap().len(), 4);

    let objects = Objects::open(&hdfs.url("another"), Purpose::Write).unwrap();
    super::assert_released_frames_are_read(&super::Scene { objects, ..super::Scene::new() });
}

#[cfg(feature = "hdfs")]
#[track_caller]
fn assert_unavailable(error: &ObjectError, what: &str, why: &str) {
    let told = error.to_string();
    assert!(matches!(error, ObjectError::Unavailable { .. }), "{told}");
    assert!(told.starts_with("hdfs://") && told.contains(what) && told.contains(why), "{told}");
}

#[test]
fn a_directory_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file://{}/archive", directory.path().display());
    assert!(matches!(Objects::open(&url, Purpose::Read), Err(ObjectError::Address { .. })));
    let objects = Objects::open(&url, Purpose::Write).unwrap();
    assert_conforms(&objects);
    // A write that was cut off is no object, and is taken away.
    let draft = directory.path().join("archive/a/c/draft#1");
    std::fs::write(&draft, b"half").unwrap();
    assert_eq!(objects.list("a").unwrap().len(), 1);
    objects.remove_drafts().unwrap();
    assert!(!draft.exists());
}

#[test]
fn addresses_that_cannot_be_used_say_why() {
    for (url, why) in [
        ("archive", "must be file:///DIRECTORY"),
        ("file://relative", "must be absolute"),
        ("ftp://host/x", "unknown kind of store"),
    ] {
        let error = Objects::open(url, Purpose::Read).unwrap_err().to_string();
        assert!(error.contains(why), "{url}: {error}");
    }
}
