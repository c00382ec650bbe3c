//! One pass over CBOR that nobody trusts yet: RFC 8949, appendix C, with limits.

use super::RejectionReason;

/// How deep items may nest. Real data nests a handful of levels; decoders recurse once a level.
pub(crate) const MAX_DEPTH: usize = 32;

/// Checks that `bytes` are exactly one well-formed item, no deeper than [`MAX_DEPTH`], in which
/// no declared length exceeds what remains. Allocates nothing.
pub(crate) fn check_well_formed(bytes: &[u8]) -> Result<(), RejectionReason> {
    match item_length(bytes, MAX_DEPTH)? {
        length if length == bytes.len() => Ok(()),
        _ => Err(RejectionReason::TrailingBytes),
    }
}

/// The length in bytes of the well-formed item at the beginning of `bytes`.
pub(super) fn item_length(bytes: &[u8], depth: usize) -> Result<usize, RejectionReason> {
    let mut rest = Rest { bytes, at: 0 };
    rest.item(depth)?;
    Ok(rest.at)
}

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const INDEFINITE: u8 = 31;
const BREAK: u8 = 0xff;

struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Rest<'_> {
    fn item(&mut self, depth: usize) -> Result<(), RejectionReason> {
        let (major, info) = self.initial_byte()?;
        if info == INDEFINITE {
            return self.indefinite(major, depth);
        }
        let argument = self.argument(info)?;
        match major {
            UNSIGNED | NEGATIVE => Ok(()),
            BYTES | TEXT => self.skip(argument),
            ARRAY => self.items(argument, 1, depth),
            MAP => self.items(argument, 2, depth),
            TAG => self.item(deeper(depth)?),
            // Simple values and floats: the argument was all there is.
            _ if info == 24 && argument < 32 => {
                Err(RejectionReason::Malformed("a simple value below 32 in two bytes"))
            }
            _ => Ok(()),
        }
    }

    fn items(&mut self, count: u64, each: u64, depth: usize) -> Result<(), RejectionReason> {
        let count = count.checked_mul(each).ok_or(RejectionReason::Truncated)?;
        // Every item takes a byte at least, so a length bomb is truncated, and no loop is long.
        self.ensure(count)?;
        let depth = deeper(depth)?;
        (0..count).try_for_each(|_| self.item(depth))
    }

    fn indefinite(&mut self, major: u8, depth: usize) -> Result<(), RejectionReason> {
        if !(BYTES..=MAP).contains(&major) {
            return Err(RejectionReason::Malformed("an indefinite length where none can be"));
        }
        let depth = deeper(depth)?;
        let mut items = 0_u64;
        while !self.take_break()? {
            match major {
                ARRAY | MAP => self.item(depth)?,
                _ => self.segment(major)?,
            }
            items += 1;
        }
        if major == MAP && items % 2 == 1 {
            return Err(RejectionReason::Malformed("a map with a key without a value"));
        }
        Ok(())
    }

    fn segment(&mut self, string: u8) -> Result<(), RejectionReason> {
        let (major, info) = self.initial_byte()?;
        if major != string || info == INDEFINITE {
            return Err(RejectionReason::Malformed("a string with a segment of another type"));
        }
        let length = self.argument(info)?;
        self.skip(length)
    }

    fn initial_byte(&mut self) -> Result<(u8, u8), RejectionReason> {
        let byte = *self.bytes.get(self.at).ok_or(RejectionReason::Truncated)?;
        self.at += 1;
        Ok((byte >> 5, byte & 31))
    }

    fn take_break(&mut self) -> Result<bool, RejectionReason> {
        let byte = *self.bytes.get(self.at).ok_or(RejectionReason::Truncated)?;
        let is_break = byte == BREAK;
        self.at += usize::from(is_break);
        Ok(is_break)
    }

    fn argument(&mut self, info: u8) -> Result<u64, RejectionReason> {
        let length = match info {
            0..=23 => return Ok(u64::from(info)),
            24..=27 => 1_usize << (info - 24),
            _ => return Err(RejectionReason::Malformed("a reserved initial byte")),
        };
        let end = self.at + length;
        let bytes = self.bytes.get(self.at..end).ok_or(RejectionReason::Truncated)?;
        self.at = end;
        Ok(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn skip(&mut self, length: u64) -> Result<(), RejectionReason> {
        self.at += self.ensure(length)?;
        Ok(())
    }

    /// `length` as an index, if that many bytes remain.
    fn ensure(&self, length: u64) -> Result<usize, RejectionReason> {
        let remaining = self.bytes.len() - self.at;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= remaining)
            .ok_or(RejectionReason::Truncated)
    }
}

fn deeper(depth: usize) -> Result<usize, RejectionReason> {
    depth.checked_sub(1).ok_or(RejectionReason::TooDeep)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8949, appendix F: not well-formed.
    const MALFORMED: &[&[u8]] = &[
        &[0x18],
        &[0x19, 0x01],
        &[0x5f, 0x41],
        &[0x1c],
        &[0x3d],
        &[0xfe],
        &[0xff],
        &[0x5f, 0x00, 0xff],
        &[0x7f, 0x41, 0x00, 0xff],
        &[0x81],
        &[0xa1, 0x00],
        &[0x9f, 0x00],
        &[0xbf, 0x00, 0xff],
        &[0xc0],
        &[0xf8, 0x18],
        &[0x1f],
        &[0x5f, 0x5f, 0x41, 0x00, 0xff, 0xff],
        &[0x00, 0x00],
        &[0x9b, 0x80, 0, 0, 0, 0, 0, 0, 0],
        &[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0xbb, 0x80, 0, 0, 0, 0, 0, 0, 0],
        &[0x1f, 0xff],
        &[0x3f, 0xff],
        &[0xdf, 0xff],
        &[0xff, 0xff],
    ];

    const WELL_FORMED: &[&[u8]] = &[
        &[0x00],
        &[0x1b, 0, 0, 0, 0, 0, 0, 0, 1],
        &[0x41, 0xff],
        &[0x5f, 0x41, 0x00, 0x40, 0xff],
        &[0x80],
        &[0x9f, 0xff],
        &[0xbf, 0x00, 0x00, 0xff],
        &[0xc0, 0x00],
        &[0xf6],
        &[0xf9, 0, 0],
        &[0xa1, 0x00, 0x82, 0x01, 0x02],
        &[0xf8, 0x20],
    ];

    #[test]
    fn the_malformed_items_of_the_rfc_are_refused_and_well_formed_ones_pass() {
        for bytes in MALFORMED {
            assert!(check_well_formed(bytes).is_err(), "{bytes:02x?}");
        }
        for bytes in WELL_FORMED {
            assert!(check_well_formed(bytes).is_ok(), "{bytes:02x?}");
        }
    }

    #[test]
    fn depth_is_limited_for_arrays_tags_and_indefinite_lengths() {
        for opening in [0x81, 0xc1, 0x9f] {
            let mut bytes = vec![opening; 100_000];
            bytes.push(0);
            assert!(matches!(check_well_formed(&bytes), Err(RejectionReason::TooDeep)));
        }
        let mut bytes = vec![0x81; MAX_DEPTH];
        bytes.push(0);
        assert!(check_well_formed(&bytes).is_ok());
    }
}
