//! What stands in one flush, with every checksum compared. Pure.

use bytes::Bytes;
use martlet_core::limits::BATCH_BYTES_MAX;
use martlet_core::{FRAME_HEADER_BYTES, FrameHeader, Offset, PartitionId, checksum::crc32c};

use super::{Damage, DamageKind};
use crate::layout::checkpoint::PartitionState;
use crate::layout::flush::{FLUSH_HEADER_BYTES, FlushHeader};
use crate::layout::get_u64;
use crate::layout::record::{self, LogStart, RECORD_HEADER_BYTES, RecordHeader, Salt, kind};

/// One record.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Item {
    /// `position` is that of the frame header. The body is damaged if `body` is `None`.
    Frame {
        header: FrameHeader,
        position: u64,
        body: Option<Bytes>,
        carried: bool,
    },
    Note {
        kind: u8,
        payload: Bytes,
    },
    /// Its body is in a run that the RUN_REF of the same flush tells.
    RunFrame {
        header: FrameHeader,
    },
    RunRef(PartitionState),
    LogStart {
        partition: PartitionId,
        log_start: Offset,
    },
    Drop {
        partition: PartitionId,
    },
}

/// A flush, record by record.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) items: Vec<Item>,
    pub(crate) damage: Vec<Damage>,
}

impl Parsed {
    pub(crate) fn is_whole(&self) -> bool {
        self.damage.is_empty()
    }

    /// Records were lost of which nothing is known.
    pub(crate) fn hides_records(&self) -> bool {
        self.damage.iter().any(|damage| matches!(damage.what, DamageKind::Flush | DamageKind::Records))
    }
}

/// Takes the records out of `flush`, whose header is `header`. With `trust_bodies`, bodies are not compared
/// with their checksums (a planted defect).
pub(crate) fn parse(header: &FlushHeader, flush: &Bytes, trust_bodies: bool) -> Parsed {
    let mut parsed = Parsed::default();
    let salt = Salt { sequence: header.sequence, incarnation: header.incarnation };
    let end = (header.payload as usize).min(flush.len());
    let mut at = FLUSH_HEADER_BYTES;
    let mut records_crc = 0;
    for _ in 0..header.record_count {
        let rest = Damage {
            position: header.position + at as u64,
            bytes: (end - at) as u64,
            what: DamageKind::Records,
        };
        let Some(record) = RecordHeader::decode(&flush[at..end], salt) else {
            parsed.damage.push(rest);
            return parsed;
        };
        records_crc = record::chain(records_crc, &flush[at..at + RECORD_HEADER_BYTES]);
        let from = at + RECORD_HEADER_BYTES;
        let Some(upto) = from.checked_add(record.length as usize).filter(|upto| *upto <= end) else {
            parsed.damage.push(rest);
            return parsed;
        };
        let position = header.position + from as u64;
        take(&mut parsed, &record, position, flush.slice(from..upto), trust_bodies);
        at = upto;
    }
    if at != end || records_crc != header.records_crc {
        let position = header.position + at as u64;
        parsed.damage.push(Damage { position, bytes: (end - at) as u64, what: DamageKind::Records });
    }
    parsed
}

fn take(parsed: &mut Parsed, record: &RecordHeader, position: u64, payload: Bytes, trust_bodies: bool) {
    let mut damaged = |what| {
        parsed.damage.push(Damage { position, bytes: payload.len() as u64, what });
    };
    if crc32c(record::covered(record.kind, &payload)) != record.payload_crc {
        return match record.kind {
            kind::NOTE..=kind::NOTE_LAST => damaged(DamageKind::Note(record.kind - kind::NOTE)),
            kind::MARK => {}
            _ => damaged(DamageKind::Records),
        };
    }
    match record.kind {
        kind::FRAME | kind::CARRY => {
            let header = FrameHeader::decode(&payload).ok().filter(|header| {
                header.body_length <= BATCH_BYTES_MAX
                    && FRAME_HEADER_BYTES + header.body_length as usize == payload.len()
            });
            let Some(header) = header else { return damaged(DamageKind::Records) };
            let body = payload.slice(FRAME_HEADER_BYTES..);
            let good = trust_bodies || header.check_body(&body).is_ok();
            if !good {
                damaged(DamageKind::Body);
            }
            let body = good.then_some(body);
            parsed.items.push(Item::Frame { header, position, body, carried: record.kind == kind::CARRY });
        }
        kind::NOTE..=kind::NOTE_LAST => {
            parsed.items.push(Item::Note { kind: record.kind - kind::NOTE, payload });
        }
        kind::LOG_START => match LogStart::decode(&payload) {
            Some(LogStart { partition, log_start }) => {
                parsed.items.push(Item::LogStart { partition, log_start });
            }
            None => damaged(DamageKind::Records),
        },
        kind::DROP if payload.len() == 8 => {
            parsed.items.push(Item::Drop { partition: PartitionId(get_u64(&payload, 0)) });
        }
        kind::RUN_FRAME => match FrameHeader::decode(&payload) {
            Ok(header) => parsed.items.push(Item::RunFrame { header }),
            Err(_) => damaged(DamageKind::Records),
        },
        kind::RUN_REF => match PartitionState::decode(&payload) {
            Some(state) => parsed.items.push(Item::RunRef(state)),
            None => damaged(DamageKind::Records),
        },
        kind::MARK => {}
        _ => damaged(DamageKind::Records),
    }
}
