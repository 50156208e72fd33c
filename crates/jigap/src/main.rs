//! The jigap binary.
fn main() {}
