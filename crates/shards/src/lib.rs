//! Where money can live. Today: one event-sourced partition.
