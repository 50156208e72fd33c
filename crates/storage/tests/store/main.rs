//! One suite for every engine of the state store: what the port promises, a disk that fails, files that decay, and kill -9.
//!
//! Without the cargo feature `rocksdb` only the default engine is there to be tested.

#![expect(clippy::unwrap_used, reason = "in a test, what fails should panic")]

/// Makes each function a test of every engine that is built in. It gets the engine, and the test's full name, so that it can start
/// itself as a child.
macro_rules! for_every_engine {
    ($module:literal: $($test:ident),* $(,)?) => {
        mod lsm_tree {
            $(#[test]
            fn $test() {
                super::$test(storage::store::Engine::LsmTree, concat!($module, "::lsm_tree::", stringify!($test)));
            })*
        }

        #[cfg(feature = "rocksdb")]
        mod rocksdb {
            $(#[test]
            fn $test() {
                super::$test(storage::store::Engine::RocksDb, concat!($module, "::rocksdb::", stringify!($test)));
            })*
        }
    };
}

mod harness;

mod conformance;
mod crash;
mod damage;
mod failures;
mod marker;
