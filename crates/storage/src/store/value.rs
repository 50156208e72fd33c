//! Reading and writing the values of a store: fields of fixed size, and numbers as LEB128.

/// Appends a number as LEB128: small ones take little room.
pub fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// The same after zigzag: small numbers of either sign take little room.
pub fn put_signed(bytes: &mut Vec<u8>, number: i64) {
    put_number(bytes, (number << 1 ^ number >> 63) as u64);
}

/// Reads a value from the front; nothing panics on bytes that are wrong.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'bytes>(pub &'bytes [u8]);

impl<'bytes> Cursor<'bytes> {
    /// So many bytes; `None` when there are fewer.
    pub fn slice(&mut self, size: usize) -> Option<&'bytes [u8]> {
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(taken)
    }

    /// A field of fixed size.
    pub fn take<const SIZE: usize>(&mut self) -> Option<[u8; SIZE]> {
        let (taken, rest) = self.0.split_first_chunk::<SIZE>()?;
        self.0 = rest;
        Some(*taken)
    }

    /// Reads [`put_number`].
    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// Reads [`put_signed`].
    pub fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }
}
