//! Copy and checksum rates of one core, over buffers that do not stay in its inner caches.

use std::hint::black_box;
use std::time::{Duration, Instant};

use martlet_core::checksum::crc32c;

use crate::report::Row;

const COPY_BYTES: usize = 64 << 20;
const BODY_BYTES: usize = 64 << 10;

pub(crate) fn copy(time: Duration) -> Row {
    let source = vec![7u8; COPY_BYTES];
    let mut target = vec![0u8; COPY_BYTES];
    let mut moved = 0usize;
    let start = Instant::now();
    while start.elapsed() < time {
        target.copy_from_slice(black_box(&source));
        black_box(&mut target);
        moved += COPY_BYTES;
    }
    let mut row = Row::new("memory copy, 64 MiB", "none");
    row.megabytes_per_second = Some(moved as f64 / 1e6 / start.elapsed().as_secs_f64());
    row
}

pub(crate) fn checksum(time: Duration) -> Row {
    let body = vec![7u8; BODY_BYTES];
    let mut covered = 0usize;
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..64 {
            black_box(crc32c(black_box(&body)));
        }
        covered += 64 * BODY_BYTES;
    }
    let mut row = Row::new("crc-32c, 64 KiB bodies", "none");
    row.megabytes_per_second = Some(covered as f64 / 1e6 / start.elapsed().as_secs_f64());
    row
}
