//! The read side: projections of committed events that can be dropped and rebuilt.
