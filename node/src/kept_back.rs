//! Writes that the log cannot take yet, and those that came after them, in order. Owns the bound on what
//! nobody waits for any more: a client that gives up and sends again leaves a copy behind each time, and its
//! connection no longer pays for that memory.

use std::collections::VecDeque;

use martlet_core::limits::KEPT_BACK_BYTES_MIN;
use martlet_shard::api::{Call, CallContext, CallToken};

/// A write in its place in the line.
pub(crate) type Kept = (CallToken, CallContext, Call);

/// See the module.
#[derive(Debug)]
pub(crate) struct KeptBack {
    line: VecDeque<Kept>,
    bytes: usize,
    /// Over it, what nobody waits for is looked for and forgotten.
    look_at_bytes: usize,
}

impl KeptBack {
    pub(crate) fn new() -> KeptBack {
        KeptBack { line: VecDeque::new(), bytes: 0, look_at_bytes: KEPT_BACK_BYTES_MIN }
    }

    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    pub(crate) fn front(&self) -> Option<&Call> {
        self.line.front().map(|(_, _, call)| call)
    }

    /// Adds a write. When much is kept, those without a caller are forgotten: none of them was acknowledged.
    /// The rest is paid for by its callers' connections. Looking costs what the line holds, and is done again
    /// only when it holds twice as much.
    pub(crate) fn push(&mut self, kept: Kept, mut is_awaited: impl FnMut(CallToken) -> bool) {
        self.bytes += bytes_of(&kept.2);
        self.line.push_back(kept);
        if self.bytes > self.look_at_bytes {
            self.line.retain(|(token, _, _)| is_awaited(*token));
            self.bytes = self.line.iter().map(|(_, _, call)| bytes_of(call)).sum();
            self.look_at_bytes = KEPT_BACK_BYTES_MIN.max(2 * self.bytes);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Kept> {
        let kept = self.line.pop_front()?;
        self.bytes -= bytes_of(&kept.2);
        Some(kept)
    }
}

fn bytes_of(call: &Call) -> usize {
    let body = match call {
        Call::Append(append) => append.body.len(),
        _ => 0,
    };
    size_of::<Kept>() + body
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use martlet_core::{PartitionId, ProducerId};
    use martlet_shard::api::Append;

    use super::*;

    fn append(body: usize) -> Call {
        Call::Append(Append {
            partition: PartitionId(1),
            acks: None,
            format: 1,
            flags: 0,
            body_crc_from: 0,
            body_crc: 0,
            crc_is_verified: false,
            record_count: 1,
            offset_span: 1,
            timestamp_max: 0,
            producer: ProducerId(0),
            producer_epoch: 0,
            base_sequence: -1,
            key_hash: 0,
            body: Bytes::from(vec![0; body]),
            verification: None,
        })
    }

    #[test]
    fn what_nobody_waits_for_is_bounded_and_what_is_awaited_keeps_its_order() {
        let mut kept = KeptBack::new();
        let body = KEPT_BACK_BYTES_MIN / 16;
        let is_awaited = |token: CallToken| token.0.is_multiple_of(10);
        for number in 0..100 {
            kept.push((CallToken(number), CallContext::default(), append(body)), is_awaited);
            let awaited = number as usize / 10 + 1;
            assert!(kept.bytes <= 3 * KEPT_BACK_BYTES_MIN.max(awaited * (body + 1024)), "at {number}");
        }
        let left: Vec<u64> = std::iter::from_fn(|| kept.pop()).map(|(token, _, _)| token.0).collect();
        let awaited: Vec<u64> = left.iter().copied().filter(|number| number % 10 == 0).collect();
        assert_eq!(awaited, (0..100).step_by(10).collect::<Vec<u64>>());
        assert!(left.is_sorted() && left.len() < 60, "{left:?}");
        assert_eq!((kept.bytes, kept.is_empty()), (0, true));
    }

    #[test]
    fn little_is_kept_also_when_nobody_waits_for_it() {
        let mut kept = KeptBack::new();
        for number in 0..10 {
            kept.push((CallToken(number), CallContext::default(), append(1000)), |_| false);
        }
        assert_eq!(kept.len(), 10);
    }
}
