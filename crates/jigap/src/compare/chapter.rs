//! What each architecture is by its design, in the words of the comparison in "Digital Wallet" (A. Xu, S. Lam: System Design Interview,
//! volume 2, chapter 12).

/// What cannot be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chapter {
    pub(super) name: &'static str,
    /// Where the protocol is.
    pub(super) layer: &'static str,
    /// In which order the operations of one transfer run.
    pub(super) order: &'static str,
    /// Whether the operations of one transfer run side by side.
    pub(super) parallel: &'static str,
    /// Whether others see a transfer half done.
    pub(super) visible: &'static str,
    /// A crash loses half a transfer, and that is known.
    pub(super) loses_money: bool,
}

const APPLICATION: &str = "application";
const UNCOORDINATED: &str = "application, no coordinator";

/// The payer's shard has the record, so it begins; the others have no order.
const TCC: Chapter = Chapter {
    name: "tcc",
    layer: APPLICATION,
    order: "payer first, the others in any order",
    parallel: "all but the payer's",
    visible: "yes, as in flight",
    loses_money: false,
};

const SAGA: Chapter = Chapter {
    name: "saga",
    layer: APPLICATION,
    order: "linear",
    parallel: "no",
    visible: "yes, as in flight",
    loses_money: false,
};

/// In the chapter's order.
pub(super) const CHAPTER: &[Chapter] = &[
    Chapter {
        name: "redis",
        layer: UNCOORDINATED,
        order: "payer, then payee",
        parallel: "no",
        visible: "yes",
        loses_money: true,
    },
    Chapter { name: "redis-tcc", ..TCC },
    // Prepared in one order everywhere, so that two transactions never wait for each other's locks in a circle.
    Chapter {
        name: "two-phase-commit",
        layer: "database (XA)",
        order: "prepared by the number of the shard, committed in any order",
        parallel: "commits yes, preparing no",
        visible: "between the commits of two shards",
        loses_money: false,
    },
    TCC,
    SAGA,
    Chapter { name: "saga-choreographed", layer: UNCOORDINATED, ..SAGA },
    Chapter {
        name: "event-sourced",
        layer: "application, its own journal",
        order: "one queue of commands",
        parallel: "no need: one event",
        visible: "no",
        loses_money: false,
    },
];

/// The architecture of this name.
pub(super) fn of(name: &str) -> Option<&'static Chapter> {
    CHAPTER.iter().find(|chapter| chapter.name == name)
}
