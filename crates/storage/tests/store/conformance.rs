//! What the port promises.

use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;
use storage::store::{Change, Engine, KEY_SIZE_BYTES_MAX, Run, StateStore, StoreError, open_read_only};

use crate::harness::{
    Content, END, FIRST_KEY, LAST_KEY, apply, content_after, ingest_up_to, open, options, random_key,
    read_all, run, runs_in, seed,
};

for_every_engine!("conformance":
    any_runs_add_up_to_what_a_map_holds,
    an_iterator_sees_the_store_as_it_was_when_it_was_made,
    readers_see_whole_runs_while_others_come_in,
    a_run_that_cannot_follow_is_refused_and_changes_nothing,
    keys_and_values_of_every_size,
    what_was_deleted_stays_away,
    a_store_is_read_as_it_stands_beside_its_writer,
);

fn assert_holds(store: &dyn StateStore, expected: &Content, random: &mut Rng) {
    assert!(read_all(store).unwrap() == *expected, "from end to end");
    for _ in 0..10 {
        let (start, end) = (random_key(random), random_key(random));
        let there: Vec<_> = store.scan(&start, &end).collect::<Result<_, _>>().unwrap();
        let mut back: Vec<_> = store.scan_reverse(&start, &end).collect::<Result<_, _>>().unwrap();
        back.reverse();
        let inside = expected.iter().filter(|(key, _)| start <= **key && **key < end);
        let inside: Vec<_> = inside.map(|(key, value)| (key.clone(), value.clone())).collect();
        assert!(there == inside && back == inside, "from {start:02x?} to {end:02x?}");
    }
    let mut keys: Vec<_> = (0..50).map(|_| random_key(random)).collect();
    keys.push(b"no such key".to_vec());
    keys.sort();
    let values = store.get_many(&keys).unwrap();
    assert_eq!(values.len(), keys.len());
    for (key, value) in keys.iter().zip(values) {
        assert!(value.as_ref() == expected.get(key), "key {key:02x?}");
        assert!(store.get(key).unwrap() == value, "key {key:02x?} alone");
    }
}

fn any_runs_add_up_to_what_a_map_holds(engine: Engine, test: &str) {
    const RUNS: u64 = 120;
    let mut random = Rng::with_seed(seed(test));
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(engine, directory.path());
    assert_eq!(store.position().unwrap(), None);
    assert!(read_all(store.as_ref()).unwrap().is_empty());
    let mut expected = Content::new();
    for number in 1..=RUNS {
        let next = run(number);
        let position = next.position;
        apply(&mut expected, &next);
        store.ingest(next).unwrap();
        assert_eq!(store.position().unwrap(), Some(position));
        if random.u8(..3) == 0 {
            store.wait_for_compaction().unwrap();
        }
        if random.u8(..8) == 0 {
            drop(store);
            store = open(engine, directory.path());
            assert_eq!(store.position().unwrap(), Some(position));
        }
        if random.u8(..4) == 0 || number == RUNS {
            assert_holds(store.as_ref(), &expected, &mut random);
        }
    }
    assert!(store.size_bytes().unwrap() > 100_000);
}

fn an_iterator_sees_the_store_as_it_was_when_it_was_made(engine: Engine, _test: &str) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(engine, directory.path());
    ingest_up_to(store.as_ref(), 20);
    let expected = content_after(20);
    let mut there = store.scan(FIRST_KEY, END);
    let mut back = store.scan_reverse(FIRST_KEY, END);
    let untouched = store.scan(FIRST_KEY, END);
    let mut seen: Vec<_> = there.by_ref().take(5).collect();
    let mut seen_back: Vec<_> = back.by_ref().take(5).collect();
    // The files under the iterators are merged away meanwhile.
    ingest_up_to(store.as_ref(), 60);
    seen.extend(there);
    seen_back.extend(back);
    seen_back.reverse();
    for seen in [seen, seen_back, untouched.collect()] {
        let seen: Content = seen.into_iter().collect::<Result<_, _>>().unwrap();
        assert!(seen == expected);
    }
    assert!(read_all(store.as_ref()).unwrap() == content_after(60));
}

fn readers_see_whole_runs_while_others_come_in(engine: Engine, _test: &str) {
    const RUNS: u64 = 150;
    let directory = tempfile::tempdir().unwrap();
    let store = open(engine, directory.path());
    ingest_up_to(store.as_ref(), 1);
    let done = AtomicBool::new(false);
    let read = |reverse: bool| {
        let (mut scans, mut last) = (0, 0);
        while !done.load(Ordering::Acquire) {
            let before = runs_in(store.as_ref()).unwrap();
            let entries =
                if reverse { store.scan_reverse(FIRST_KEY, END) } else { store.scan(FIRST_KEY, END) };
            let seen: Content = entries.collect::<Result<_, _>>().unwrap();
            assert_eq!(seen[FIRST_KEY], seen[LAST_KEY], "the beginning of one run and the end of another");
            let runs = u64::from_be_bytes(seen[FIRST_KEY].as_slice().try_into().unwrap());
            assert!(runs >= before && runs >= last, "a run that was there has gone");
            assert!(seen == content_after(runs), "not what {runs} runs add up to");
            (scans, last) = (scans + 1, runs);
        }
        scans
    };
    let scans = std::thread::scope(|scope| {
        let readers = [scope.spawn(|| read(false)), scope.spawn(|| read(true))];
        // Also when a run is refused, the readers must end.
        let ingested = scope.spawn(|| ingest_up_to(store.as_ref(), RUNS)).join();
        done.store(true, Ordering::Release);
        ingested.unwrap();
        readers.map(|reader| reader.join().unwrap())
    });
    println!("{RUNS} runs, {scans:?} scans meanwhile");
    assert!(scans.into_iter().all(|scans| scans > 0));
}

fn a_run_that_cannot_follow_is_refused_and_changes_nothing(engine: Engine, _test: &str) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(engine, directory.path());
    ingest_up_to(store.as_ref(), 3);
    let reached = store.position().unwrap().unwrap();
    let put = |key: &[u8]| (key.to_vec(), Change::Put(b"new".to_vec()));
    let delete = |key: &[u8]| (key.to_vec(), Change::Delete);
    let keys = [
        vec![put(b"b"), put(b"a")],
        vec![put(b"a"), put(b"a")],
        vec![put(b"a"), delete(b"a")],
        vec![put(b"a"), put(b"c"), put(b"b")],
        vec![put(b"")],
        vec![put(&[0])],
        vec![delete(&[0, 1])],
        vec![put(&vec![7; KEY_SIZE_BYTES_MAX + 1])],
    ];
    let out_of_order = keys.into_iter().map(|changes| Run { position: reached + 1, changes });
    let late = [reached, reached - 1, 0].map(|position| Run { position, changes: vec![put(b"a")] });
    for run in out_of_order.chain(late) {
        let shown = format!("position {}, {} changes", run.position, run.changes.len());
        assert!(matches!(store.ingest(run), Err(StoreError::InvalidRun(_))), "{shown}");
    }
    assert_eq!(store.position().unwrap(), Some(reached));
    assert!(read_all(store.as_ref()).unwrap() == content_after(3));
    ingest_up_to(store.as_ref(), 4);
}

fn keys_and_values_of_every_size(engine: Engine, _test: &str) {
    const HUGE_SIZE_BYTES: usize = 48 << 20;
    let directory = tempfile::tempdir().unwrap();
    let store = open(engine, directory.path());
    let mut changes: Vec<(Vec<u8>, Vec<u8>)> = vec![
        (vec![1], Vec::new()),
        (vec![1, 0], vec![0]),
        (b"huge".to_vec(), (0..HUGE_SIZE_BYTES).map(|at| ((at * at) >> 7) as u8).collect()),
        (vec![b'k'; KEY_SIZE_BYTES_MAX], b"a long key".to_vec()),
        (vec![0xff; 300], vec![0xff; 70_000]),
    ];
    changes.sort();
    let run = changes.iter().map(|(key, value)| (key.clone(), Change::Put(value.clone()))).collect();
    store.ingest(Run { position: 1, changes: run }).unwrap();
    // A run may bring nothing but its position.
    store.ingest(Run { position: 2, changes: Vec::new() }).unwrap();
    store.ingest(Run { position: u64::MAX, changes: Vec::new() }).unwrap();
    store.wait_for_compaction().unwrap();
    drop(store);
    let store = open(engine, directory.path());
    assert_eq!(store.position().unwrap(), Some(u64::MAX));
    for (key, value) in &changes {
        assert!(store.get(key).unwrap().as_ref() == Some(value), "a key of {} bytes", key.len());
    }
    let found: Vec<_> = store.scan(&[1], &[0xff; 301]).collect::<Result<_, _>>().unwrap();
    assert!(found == changes);
    for (start, end) in [(b"b", b"a"), (b"a", b"a")] {
        assert_eq!(store.scan(start, end).count() + store.scan_reverse(start, end).count(), 0);
    }
    assert_eq!(store.get_many(&[]).unwrap(), Vec::<Option<Vec<u8>>>::new());
    assert!(store.size_bytes().unwrap() > HUGE_SIZE_BYTES as u64);
}

fn what_was_deleted_stays_away(engine: Engine, _test: &str) {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(engine, directory.path());
    ingest_up_to(store.as_ref(), 30);
    let keys: Vec<Vec<u8>> = content_after(30).into_keys().chain([b"never there".to_vec()]).collect();
    let mut deletes: Vec<_> = keys.iter().map(|key| (key.clone(), Change::Delete)).collect();
    deletes.sort_by(|one, other| one.0.cmp(&other.0));
    let position = store.position().unwrap().unwrap() + 1;
    store.ingest(Run { position, changes: deletes }).unwrap();
    for reopened in [false, true] {
        assert_eq!(store.scan(FIRST_KEY, END).count(), 0, "reopened: {reopened}");
        assert!(store.get(&keys[0]).unwrap().is_none());
        assert_eq!(store.position().unwrap(), Some(position));
        store.wait_for_compaction().unwrap();
        drop(store);
        store = open(engine, directory.path());
    }
    let again = vec![(keys[3].clone(), Change::Put(b"again".to_vec()))];
    store.ingest(Run { position: position + 1, changes: again }).unwrap();
    assert_eq!(read_all(store.as_ref()).unwrap(), Content::from([(keys[3].clone(), b"again".to_vec())]));
}

fn a_store_is_read_as_it_stands_beside_its_writer(engine: Engine, _: &str) {
    const RUNS: u64 = 150;
    let directory = tempfile::tempdir().unwrap();
    let look = || open_read_only(directory.path(), &options(engine)).unwrap();
    assert!(look().is_none(), "nothing was made");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nor by looking");
    let store = open(engine, directory.path());
    ingest_up_to(store.as_ref(), 1);
    let kept = look().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            ingest_up_to(store.as_ref(), RUNS);
            done.store(true, Ordering::Release);
        });
        loop {
            let finished = done.load(Ordering::Acquire);
            let view = look().unwrap();
            let runs = runs_in(view.as_ref()).unwrap();
            assert!(read_all(view.as_ref()).unwrap() == content_after(runs), "as of run {runs}");
            assert!(matches!(view.ingest(run(runs + 1)), Err(StoreError::InvalidRun(_))));
            if finished {
                assert_eq!(runs, RUNS);
                break;
            }
        }
    });
    // By now the writer has merged and removed every file that it was opened with.
    assert!(read_all(kept.as_ref()).unwrap() == content_after(1));
    drop(store);
    assert!(read_all(open(engine, directory.path()).as_ref()).unwrap() == content_after(RUNS));
}
