//! From protobuf messages to `ledger` types and back.
