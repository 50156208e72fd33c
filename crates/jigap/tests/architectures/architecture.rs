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
    pub(crate) cannot: &'static [Feature],
}

impl Architecture {
    pub(crate) fn can(&self, feature: Feature) -> bool {
        !self.cannot.contains(&feature)
    }
}

const fn over_shards(name: &'static str) -> Architecture {
    Architecture { name, cannot: EVENT_SOURCED_ALONE }
}

/// Every architecture that the configuration knows.
pub(crate) const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "event-sourced", cannot: &[] },
    over_shards("two-phase-commit"),
    over_shards("tcc"),
    over_shards("saga"),
    over_shards("saga-choreographed"),
    Architecture {
        name: "redis",
        cannot: &[
            Feature::Past,
            Feature::Events,
            Feature::Receipts,
            Feature::Snapshots,
            Feature::Handles,
            Feature::Digest,
            Feature::BeyondTransfers,
        ],
    },
    over_shards("redis-tcc"),
];

/// The row of this name.
pub(crate) fn of(name: &str) -> &'static Architecture {
    ARCHITECTURES.iter().find(|architecture| architecture.name == name).unwrap()
}
