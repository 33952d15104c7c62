//! The gateway's decoders, for fuzzing: any bytes go in, and nothing may panic, hang, or take memory that the
//! bytes do not pay for. Owns the list of which request is read as what; serves nobody.

use bytes::Bytes;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::Decodable;
use martlet_core::Now;

use crate::answer::Request;
use crate::calls;
use crate::groups;
use crate::table;
use crate::wire::{Malformed, Reader};

/// A request behind its length: header, then body as its handler reads it.
pub fn request(bytes: &[u8]) {
    let _ = read(Reader::new(Bytes::copy_from_slice(bytes), false));
}

fn read(mut header: Reader) -> Result<(), Malformed> {
    let (key, version) = (header.i16()?, header.i16()?);
    let _correlation = header.i32()?;
    let Some(api) = table::find(key).filter(|api| (api.served_from..=api.max).contains(&version)) else {
        return Ok(());
    };
    let client = header.nullable_text()?.unwrap_or("").to_owned();
    let mut rest = Reader::new(header.rest(), version >= api.flexible_from);
    rest.tags()?;
    let request = Request { api, version, client, body: rest.rest() };
    decode(&request).unwrap_or(Ok(()))
}

/// Reads the body; `None` for a request that this list lacks.
fn decode(request: &Request) -> Option<Result<(), Malformed>> {
    fn of<M: Decodable>(request: &Request) -> Result<(), Malformed> {
        request.message::<M>().map(drop)
    }
    let (reader, version) = (request.reader(), request.version);
    Some(match request.api.key {
        0 => calls::produce::read(reader, version).map(drop),
        1 => calls::fetch::request::read(reader, version).map(drop),
        2 => calls::list_offsets::read(reader, version).map(drop),
        3 => of::<MetadataRequest>(request),
        8 => of::<OffsetCommitRequest>(request),
        9 => of::<OffsetFetchRequest>(request),
        10 => of::<FindCoordinatorRequest>(request),
        11 => of::<JoinGroupRequest>(request),
        12 => of::<HeartbeatRequest>(request),
        13 => of::<LeaveGroupRequest>(request),
        14 => of::<SyncGroupRequest>(request),
        15 => of::<DescribeGroupsRequest>(request),
        16 => of::<ListGroupsRequest>(request),
        // Its body says nothing that is needed.
        18 => Ok(()),
        19 => of::<CreateTopicsRequest>(request),
        20 => of::<DeleteTopicsRequest>(request),
        21 => of::<DeleteRecordsRequest>(request),
        22 => of::<InitProducerIdRequest>(request),
        23 => of::<OffsetForLeaderEpochRequest>(request),
        24 => of::<AddPartitionsToTxnRequest>(request),
        25 => of::<AddOffsetsToTxnRequest>(request),
        26 => of::<EndTxnRequest>(request),
        28 => of::<TxnOffsetCommitRequest>(request),
        32 => of::<DescribeConfigsRequest>(request),
        33 => of::<AlterConfigsRequest>(request),
        35 => of::<DescribeLogDirsRequest>(request),
        37 => of::<CreatePartitionsRequest>(request),
        42 => of::<DeleteGroupsRequest>(request),
        44 => of::<IncrementalAlterConfigsRequest>(request),
        46 => of::<ListPartitionReassignmentsRequest>(request),
        47 => of::<OffsetDeleteRequest>(request),
        48 => of::<DescribeClientQuotasRequest>(request),
        60 => of::<DescribeClusterRequest>(request),
        61 => of::<DescribeProducersRequest>(request),
        65 => of::<DescribeTransactionsRequest>(request),
        66 => of::<ListTransactionsRequest>(request),
        68 => of::<ConsumerGroupHeartbeatRequest>(request),
        69 => of::<ConsumerGroupDescribeRequest>(request),
        75 => of::<DescribeTopicPartitionsRequest>(request),
        _ => return None,
    })
}

/// Examples for [`group_value`].
#[must_use]
pub fn group_values() -> Vec<Vec<u8>> {
    groups::value_examples()
}

/// What groups keep in registers, in each of its forms.
pub fn group_value(bytes: &[u8]) {
    groups::check_value(bytes, Now::default());
}

/// What a member of a classic group says it reads.
pub fn subscription(bytes: &[u8]) {
    let _ = groups::subscribes(&Bytes::copy_from_slice(bytes), "orders");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_of_the_table_is_read() {
        for api in table::APIS {
            let request =
                Request { api, version: api.served_from, client: String::new(), body: Bytes::new() };
            assert!(decode(&request).is_some(), "give {} a line in `decode`", api.name);
        }
    }

    #[test]
    fn an_example_is_read_to_its_end_and_a_cut_one_is_refused() {
        let body = [&0i32.to_be_bytes()[..], &[0, 1, b'x']].concat();
        let whole = [&[0, 3, 0, 1, 0, 0, 0, 9, 0, 1, b'c'][..], &1i32.to_be_bytes(), &body[4..]].concat();
        let read = |bytes: &[u8]| read(Reader::new(Bytes::copy_from_slice(bytes), false));
        assert_eq!(read(&whole), Ok(()));
        assert!(read(&whole[..whole.len() - 1]).is_err());
    }
}
