//! Reading the protobuf wire format from a slice.

use super::Malformed;

const TRUNCATED: Malformed = Malformed("it ends too early");

/// How a field's value stands on the wire.
pub(super) const VARINT: u64 = 0;
pub(super) const FIXED64: u64 = 1;
pub(super) const LENGTH_DELIMITED: u64 = 2;
pub(super) const FIXED32: u64 = 5;

/// The key of a field: its number and how its value stands on the wire.
pub(super) const fn key(number: u64, wire_type: u64) -> u64 {
    number << 3 | wire_type
}

/// What is left of a message.
#[derive(Clone, Copy)]
pub(super) struct Fields<'message>(pub(super) &'message [u8]);

impl<'message> Fields<'message> {
    #[inline(always)]
    pub(super) fn next_key(&mut self) -> Result<Option<u64>, Malformed> {
        if self.0.is_empty() { Ok(None) } else { self.varint().map(Some) }
    }

    #[inline(always)]
    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        // Nearly every key, size and small number is one byte, and most amounts are two.
        match self.0 {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.0 = rest;
                Ok((*byte).into())
            }
            [one, two, rest @ ..] if *two < 0x80 => {
                self.0 = rest;
                Ok(u64::from(*one & 0x7f) | u64::from(*two) << 7)
            }
            _ => self.long_varint(),
        }
    }

    /// Eight bytes at once where there are so many: handles are three or four, and a branch for each of them is often guessed wrong.
    #[inline(always)]
    fn long_varint(&mut self) -> Result<u64, Malformed> {
        const CONTINUES: u64 = 0x8080_8080_8080_8080;
        let word = self.0.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let ends = word.map_or(0, |word| !word & CONTINUES);
        let (Some(word), 1..) = (word, ends) else { return self.varint_by_bytes() };
        let bits = ends.trailing_zeros() + 1;
        let word = word & !CONTINUES & (u64::MAX >> (u64::BITS - bits));
        // Groups of seven bits move together, then pairs of them, then fours.
        let word = word & 0x007f_007f_007f_007f | (word & 0x7f00_7f00_7f00_7f00) >> 1;
        let word = word & 0x0000_3fff_0000_3fff | (word & 0x3fff_0000_3fff_0000) >> 2;
        let word = word & 0x0000_0000_0fff_ffff | (word & 0x0fff_ffff_0000_0000) >> 4;
        self.0 = &self.0[bits as usize / 8..];
        Ok(word)
    }

    #[cold]
    fn varint_by_bytes(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for (index, &byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.0 = &self.0[index + 1..];
                return Ok(value);
            }
        }
        Err(if self.0.len() < 10 { TRUNCATED } else { Malformed("a number is too long") })
    }

    #[inline(always)]
    pub(super) fn bytes(&mut self) -> Result<&'message [u8], Malformed> {
        let size = usize::try_from(self.varint()?).map_err(|_| TRUNCATED)?;
        let (bytes, rest) = self.0.split_at_checked(size).ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn fixed64(&mut self) -> Result<u64, Malformed> {
        let (bytes, rest) = self.0.split_first_chunk::<8>().ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    pub(super) fn text(&mut self) -> Result<&'message str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// Passes over a field that this version does not know.
    pub(super) fn skip(&mut self, key: u64) -> Result<(), Malformed> {
        match key & 7 {
            VARINT => self.varint().map(drop),
            FIXED64 => self.fixed64().map(drop),
            LENGTH_DELIMITED => self.bytes().map(drop),
            FIXED32 => {
                self.0 = self.0.get(4..).ok_or(TRUNCATED)?;
                Ok(())
            }
            _ => Err(Malformed("a field has an unknown wire type")),
        }
    }
}

pub(super) fn zigzag_decoded(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

pub(super) fn zigzag_encoded(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// How many bytes a number takes.
pub(super) const fn varint_size(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

pub(super) fn put_varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

pub(super) fn put_bytes(buffer: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(buffer, key(number, LENGTH_DELIMITED));
    put_varint(buffer, bytes.len() as u64);
    buffer.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_and_read_back() {
        let powers = (0..64).flat_map(|power| [(1u64 << power) - 1, 1 << power]);
        for value in powers.chain([u64::MAX]) {
            let mut buffer = Vec::new();
            put_varint(&mut buffer, value);
            assert_eq!(buffer.len(), varint_size(value), "{value}");
            let mut fields = Fields(&buffer);
            assert_eq!(fields.varint(), Ok(value));
            assert!(fields.0.is_empty());
            let size = buffer.len();
            buffer.extend_from_slice(&[0xff; 9]);
            let mut fields = Fields(&buffer);
            assert_eq!((fields.varint(), fields.0.len()), (Ok(value), buffer.len() - size));
            assert_eq!(zigzag_decoded(zigzag_encoded(value as i64)), value as i64);
        }
        assert_eq!(Fields(&[0x80]).varint(), Err(TRUNCATED));
        assert!(Fields(&[0xff; 11]).varint().is_err());
    }
}
