//! HTTP and gRPC in front of the ledger: everything async.
