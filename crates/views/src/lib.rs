//! The read side: projections of committed frames that can be dropped and built again from the journal.
//!
//! A view records the position it reached atomically with its rows. It must never decide anything, and never touch the
//! write side's state.

mod history;

pub use history::{
    History, HistoryEntry, HistoryError, HistoryOptions, HistoryPage, HistoryQuery, HistoryStatus, Moment,
    PastAccount, PastState,
};
