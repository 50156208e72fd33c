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
