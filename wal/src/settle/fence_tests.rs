//! A partition whose segment failed shares the ring with others.

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::{FrameHeader, NodeId, Now, PartitionId, WalId};

use crate::config::{Geometry, StoreConfig};
use crate::io::{FileId, IoFault, IoRequest};
use crate::recovery::{NewWal, Recovery};
use crate::store::WriteClass;
use crate::testing::{Bench, ModelDisk};

const WAL: WalId = WalId(0x78);

#[test]
fn a_fenced_partition_does_not_hold_the_ring() {
    let (sick, well) = (PartitionId(1), PartitionId(2));
    let geometry = Geometry { file_bytes: 256 * 1024, files: 4, block_bytes: 4096 };
    let new = NewWal { wal: WAL, cluster: 1, node: NodeId(1), shard: 0, shards: 1, geometry };
    let config = StoreConfig {
        flush_bytes_max: 64 * 1024,
        ballast_bytes: 16 * 1024,
        tail_cache_bytes: 0,
        ..StoreConfig::default()
    };
    let mut bench = Bench::start(Recovery::create(new, config), ModelDisk::new(), Now::default()).unwrap();
    bench.disk.faults = Some(Box::new(|request: &IoRequest| match request {
        IoRequest::Write { file: FileId::Segment(name), .. } if name.partition == PartitionId(1) => {
            Some(IoFault::Other(5))
        }
        _ => None,
    }));
    let (mut sent, mut refused) = (0u64, 0);
    while sent < 8 * geometry.file_bytes * 4 {
        let is_fenced = bench.store.logs().get(sick).is_some_and(|log| log.is_fenced());
        // Most of the ring is of the partition that fails.
        let is_well = is_fenced || sent % 5 == 4;
        let partition = if is_well { well } else { sick };
        bench.settle_down();
        if bench.store.checkpoint_wanted() {
            bench.store.provide_checkpoint(Vec::new());
            bench.settle_down();
        }
        if bench.store.admit(partition, 4001, WriteClass::Records).is_err() {
            refused += 1;
            assert!(refused < 1_000, "the ring stays full: {:?}", bench.store.counters());
            bench.pass(20);
            continue;
        }
        refused = 0;
        let extent = bench.store.open_partition(partition);
        let body = Bytes::from(vec![sent as u8; 4001]);
        let header = FrameHeader {
            format: 1,
            epoch: extent.epoch,
            partition: partition.0,
            base_offset: extent.next_offset,
            offset_span: 1,
            record_count: 1,
            body_length: 4001,
            body_crc: crc32c(&body),
            ..FrameHeader::default()
        };
        bench.store.append(&header, &body);
        sent += 4001;
    }
    let counters = bench.store.counters();
    assert!(bench.store.logs().get(sick).unwrap().is_fenced() && counters.carried_bytes > 1 << 20);
    assert!(bench.store.extent(sick).unwrap().next_offset > 50, "much of it was in the ring");
}
