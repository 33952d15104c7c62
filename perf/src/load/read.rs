//! Reading: everything a topic holds, as fast as it comes.

use std::time::Instant;

use martlet_client::{Consumer, ConsumerConfig};

use super::{Options, client};
use crate::error::PerfError;
use crate::report::Row;

/// Reads from the start to the end each partition had at first, or until `records` were seen.
pub(super) async fn all(options: &Options) -> Result<Row, PerfError> {
    let mut config = ConsumerConfig::new(&options.server);
    config.until_end = true;
    let mut consumer = Consumer::connect(&options.topic, config).await.map_err(client)?;
    let (mut records, mut bytes) = (0u64, 0u64);
    let start = Instant::now();
    while let Some(delivery) = consumer.next().await.map_err(client)? {
        for record in delivery.records() {
            records += 1;
            bytes += record.value.map_or(0, <[u8]>::len) as u64;
        }
        if options.records > 0 && records >= options.records {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut row = Row::new(format!("read from the start, {} partitions", options.partitions), "none");
    row.operations_per_second = Some(records as f64 / seconds);
    row.megabytes_per_second = Some(bytes as f64 / 1e6 / seconds);
    row.more.push(("records".into(), records as f64));
    Ok(row)
}
