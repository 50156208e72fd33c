//! Reads the manifests and fails on an edge between crates that the design does not have.
//!
//! A new edge is a design change: say why in `ARCHITECTURE.md`, and change the table here in the same commit.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each crate of the project, and which others it may import, in tests too.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("ledger", &[]),
    ("storage", &["testbed"]),
    ("api", &["ledger"]),
    ("replica", &["storage"]),
    ("coordinator", &["ledger"]),
    ("testbed", &[]),
    ("shards", &["ledger", "replica", "storage"]),
    ("distributed", &["ledger", "coordinator", "shards", "testbed"]),
    ("views", &["ledger", "storage"]),
    (
        "server",
        &["ledger", "storage", "replica", "coordinator", "shards", "distributed", "views", "api", "testbed"],
    ),
    ("simulator", &["ledger", "storage", "replica", "coordinator", "shards", "views"]),
    (
        "jigap",
        &[
            "ledger",
            "storage",
            "replica",
            "coordinator",
            "shards",
            "distributed",
            "views",
            "api",
            "server",
            "simulator",
            "testbed",
        ],
    ),
];

/// All that the rules of money may rest on, of ours and of others.
const LEDGER_DEPENDENCIES: &[&str] = &["blake3", "compact_str", "iso_currency"];
/// What its tests may use.
const LEDGER_TEST_DEPENDENCIES: &[&str] = &["fastrand"];

/// What must not even be reached through a dependency: threads of its own, sockets, chance, a clock.
const NEVER_REACHED: &[(&str, &[&str])] = &[
    (
        "ledger",
        &["tokio", "mio", "async-std", "smol", "rand", "getrandom", "chrono", "time", "jiff", "serde"],
    ),
    (
        "coordinator",
        &["tokio", "mio", "async-std", "smol", "rand", "getrandom", "chrono", "time", "jiff", "serde"],
    ),
    ("simulator", &["tokio", "mio", "async-std", "smol"]),
];

/// Crates that run while others are built and are in no program: what they reach is not reached.
const BUILD_TOOLS: &[&str] = &["cc"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: &Path) -> toml::Table {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The manifest of every crate of the workspace, by its folder.
fn manifests() -> BTreeMap<String, toml::Table> {
    let mut manifests = BTreeMap::new();
    for folder in std::fs::read_dir(root().join("crates")).unwrap() {
        let folder = folder.unwrap();
        let manifest = folder.path().join("Cargo.toml");
        if manifest.exists() {
            manifests.insert(folder.file_name().into_string().unwrap(), read(&manifest));
        }
    }
    assert!(manifests.contains_key("ledger") && manifests.contains_key("jigap"), "{:?}", manifests.keys());
    manifests
}

const NORMAL: &[&str] = &["dependencies", "build-dependencies"];
const OF_TESTS: &[&str] = &["dev-dependencies"];

/// The names of all packages that a manifest asks for, under whatever name and for whatever platform.
fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    dependencies_of(manifest, &[NORMAL, OF_TESTS].concat())
}

fn dependencies_of(manifest: &toml::Table, kinds: &[&str]) -> BTreeSet<String> {
    let mut tables = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        tables.extend(targets.values().filter_map(toml::Value::as_table));
    }
    let mut names = BTreeSet::new();
    for table in tables {
        for kind in kinds {
            let Some(entries) = table.get(*kind).and_then(toml::Value::as_table) else { continue };
            for (key, entry) in entries {
                let package = entry.get("package").and_then(toml::Value::as_str);
                names.insert(package.unwrap_or(key).to_string());
            }
        }
    }
    names
}

#[test]
fn crates_import_only_what_the_design_allows() {
    let manifests = manifests();
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut forbidden = Vec::new();
    for (name, manifest) in &manifests {
        let allowed =
            allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} has no row in the table of edges"));
        for dependency in dependencies(manifest) {
            if manifests.contains_key(&dependency) && !allowed.contains(&dependency.as_str()) {
                forbidden.push(format!("{name} -> {dependency}"));
            }
        }
    }
    assert!(forbidden.is_empty(), "edges that the design does not have: {forbidden:?}");
}

#[test]
fn the_ledger_rests_on_next_to_nothing() {
    for (kinds, allowed) in [(NORMAL, LEDGER_DEPENDENCIES), (OF_TESTS, LEDGER_TEST_DEPENDENCIES)] {
        let dependencies = dependencies_of(&manifests()["ledger"], kinds);
        let unexpected: Vec<_> =
            dependencies.iter().filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(unexpected.is_empty(), "the rules of money must not need {unexpected:?}");
    }
}

/// Over `Cargo.lock`, which knows every feature and platform: rather too strict than too lax.
#[test]
fn the_deterministic_crates_reach_no_runtime() {
    let lock = read(&root().join("Cargo.lock"));
    let mut edges: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        let dependencies = package.get("dependencies").and_then(toml::Value::as_array);
        let names =
            dependencies.into_iter().flatten().map(|text| text.as_str().unwrap().split(' ').next().unwrap());
        edges.entry(package["name"].as_str().unwrap()).or_default().extend(names);
    }
    for (name, never) in NEVER_REACHED {
        if !edges.contains_key(name) {
            continue;
        }
        let mut reached = BTreeSet::from([*name]);
        let mut waiting = vec![*name];
        while let Some(package) = waiting.pop() {
            if BUILD_TOOLS.contains(&package) {
                continue;
            }
            waiting.extend(edges[package].iter().copied().filter(|dependency| reached.insert(dependency)));
        }
        let forbidden: Vec<_> = never.iter().filter(|package| reached.contains(*package)).collect();
        assert!(forbidden.is_empty(), "{name} reaches {forbidden:?}");
    }
}
