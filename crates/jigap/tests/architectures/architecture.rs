//! Which architectures there are, and what each cannot give. `docs/architectures.md` has the same table for people.

/// Something that not every architecture can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    /// `at=` and `at_sequence=`, of accounts and of the state.
    Past,
    /// `/v1/wallet/events`, and `Subscribe`.
    Events,
    /// `/v1/wallet/transactions/{id}/receipt`.
    Receipts,
    /// `/v1/admin/snapshots`.
    Snapshots,
    /// Numbers in place of account ids over gRPC.
    Handles,
    /// A digest and one position of the whole state.
    Digest,
    /// Holds, groups, reversals and closing: what needs more than two updates.
    BeyondTransfers,
}

/// What only one journal of all events can give.
const EVENT_SOURCED_ALONE: &[Feature] = &[
    Feature::Past,
    Feature::Events,
    Feature::Receipts,
    Feature::Snapshots,
    Feature::Handles,
    Feature::Digest,
];

/// One row of the table.
pub(crate) struct Architecture {
    pub(crate) name: &'static str,
    /// Enough to be told that it goes together.
    pub(crate) flags: &'static [&'static str],
    pub(crate) cannot: &'static [Feature],
    /// False until this version can serve it.
    pub(crate) is_served: bool,
}

impl Architecture {
    pub(crate) fn can(&self, feature: Feature) -> bool {
        !self.cannot.contains(&feature)
    }
}

const SQL: &[&str] = &["--shards", "postgres://127.0.0.1:1/x,mysql://127.0.0.1:1/x"];
const SQL_WITH_BROKER: &[&str] = &["--broker", "nats://127.0.0.1:1", "--shards", "postgres://127.0.0.1:1/x"];

const fn over_shards(name: &'static str, flags: &'static [&'static str]) -> Architecture {
    Architecture { name, flags, cannot: EVENT_SOURCED_ALONE, is_served: false }
}

const fn over_sql(name: &'static str) -> Architecture {
    Architecture { is_served: true, ..over_shards(name, SQL) }
}

const fn over_redis(name: &'static str, cannot: &'static [Feature]) -> Architecture {
    Architecture { name, flags: &[], cannot, is_served: true }
}

/// Every architecture that the configuration knows.
pub(crate) const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "event-sourced", flags: &[], cannot: &[], is_served: true },
    over_sql("two-phase-commit"),
    over_sql("tcc"),
    over_sql("saga"),
    over_shards("saga-choreographed", SQL_WITH_BROKER),
    over_redis(
        "redis",
        &[
            Feature::Past,
            Feature::Events,
            Feature::Receipts,
            Feature::Snapshots,
            Feature::Handles,
            Feature::Digest,
            Feature::BeyondTransfers,
        ],
    ),
    over_redis("redis-tcc", EVENT_SOURCED_ALONE),
];

/// The row of this name.
pub(crate) fn of(name: &str) -> &'static Architecture {
    ARCHITECTURES.iter().find(|architecture| architecture.name == name).unwrap()
}
