//! Zigzag varints of at most 64 bits. Reading never goes past the slice it was given.

/// Longest encoding.
pub(super) const VARINT_BYTES_MAX: usize = 10;

#[inline]
pub(super) fn put(out: &mut Vec<u8>, value: i64) {
    let mut value = ((value << 1) ^ (value >> 63)) as u64;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes one number off the front of `input`; `None` if it is cut or over 64 bits.
#[inline]
pub(super) fn take(input: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for (index, &byte) in input.iter().take(VARINT_BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == VARINT_BYTES_MAX - 1 && bits > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte < 0x80 {
            *input = &input[index + 1..];
            return Some(((value >> 1) as i64) ^ -((value & 1) as i64));
        }
    }
    None
}
