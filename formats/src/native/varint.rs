//! LEB128 variable-length integers and zigzag. Owns the encoding; reading never goes past the slice it was
//! given.

/// Longest encoding of 64 bits.
pub(super) const VARINT_BYTES_MAX: usize = 10;

/// Bytes `value` takes.
#[inline]
pub(super) fn length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[inline]
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
pub(super) fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

#[inline]
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    if value < 0x80 {
        out.push(value as u8);
        return;
    }
    let mut encoded = [0u8; VARINT_BYTES_MAX];
    let mut used = 0;
    while value >= 0x80 {
        encoded[used] = (value as u8 & 0x7f) | 0x80;
        value >>= 7;
        used += 1;
    }
    encoded[used] = value as u8;
    out.extend_from_slice(&encoded[..=used]);
}

/// Takes one integer off the front of `input`; `None` if it is cut, over 64 bits, or not the shortest
/// encoding.
#[inline]
pub(super) fn take(input: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = input.split_first()?;
    if first < 0x80 {
        *input = rest;
        return Some(u64::from(first));
    }
    take_long(input)
}

fn take_long(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (index, &byte) in input.iter().take(VARINT_BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == VARINT_BYTES_MAX - 1 && bits > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte < 0x80 {
            if byte == 0 && index > 0 {
                return None;
            }
            *input = &input[index + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(value: u64, signed: i64, tail: u8) {
            let mut out = Vec::new();
            put(&mut out, value);
            prop_assert_eq!(out.len(), length(value));
            out.push(tail);
            let mut input = &out[..];
            prop_assert_eq!(take(&mut input), Some(value));
            prop_assert_eq!(input, &[tail][..]);
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }
    }

    #[test]
    fn edges_have_their_length_and_bad_encodings_are_refused() {
        for (value, bytes) in [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u64::MAX, 10)] {
            assert_eq!(length(value), bytes, "{value}");
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(take(&mut &out[..]), Some(value));
            assert_eq!(take(&mut &out[..out.len() - 1]), None, "cut {value}");
        }
        assert_eq!(take(&mut &[0x80, 0x00][..]), None, "not the shortest");
        assert_eq!(take(&mut &[0xff; 10][..]), None, "more than 64 bits");
        assert_eq!(take(&mut &[0xff; 20][..]), None);
    }
}
