//! Bytes that nobody can guess.

use std::fs::File;
use std::io::{self, Read};

/// Where they come from, for error messages.
pub(crate) const RANDOM_SOURCE: &str = "/dev/urandom";

/// 32 bytes from the operating system.
pub fn random_bytes() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open(RANDOM_SOURCE)?.read_exact(&mut bytes)?;
    Ok(bytes)
}
