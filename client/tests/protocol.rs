//! The examples of the specification are what this build writes and reads.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test says so by failing"
)]

use std::collections::BTreeMap;

use martlet_core::native::{
    AppendRequest, ArchivedRequest, ArchivedResponse, Request, RequestCall, Response, ResponseAnswer, Setting,
};
use martlet_core::{Acks, ErrorCode};
use martlet_formats::native::{BatchBuilder, Codec, Record};
use rkyv::rancor::Error;

/// The hex examples of `docs/native-protocol.md`, by the first word of their caption.
fn examples() -> BTreeMap<String, Vec<Vec<u8>>> {
    let text = include_str!("../../docs/native-protocol.md");
    let mut examples: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for block in text.split("```hex\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let lines: Vec<&str> = block.lines().collect();
        for pair in lines.chunks(2) {
            let bytes = pair[1].split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
            examples.entry(pair[0].split(' ').next().unwrap().to_owned()).or_default().push(bytes);
        }
    }
    examples
}

fn request(call: RequestCall) -> Vec<u8> {
    rkyv::to_bytes::<Error>(&Request { correlation: 1, call }).unwrap().to_vec()
}

fn response(answer: ResponseAnswer) -> Vec<u8> {
    rkyv::to_bytes::<Error>(&Response { correlation: 1, answer }).unwrap().to_vec()
}

#[test]
fn the_examples_of_the_specification_are_true() {
    let append = AppendRequest {
        partition: 258,
        acks: Some(Acks::Durable),
        record_count: 3,
        body_crc: 0xdead_beef,
        timestamp_max: 5,
        producer: 9,
        producer_epoch: 1,
        base_sequence: 7,
        flags: 0,
        key_hash: 0,
    };
    let settings = vec![Setting { key: "acks".into(), value: "durable".into() }];
    let mut batch = BatchBuilder::new(Codec::None, 0);
    let record =
        Record { timestamp: 1_700_000_000_000, key: Some(b"k"), value: Some(b"hello"), headers: &[] };
    batch.append(&record).unwrap();
    let expected = BTreeMap::from([
        ("Ping".to_owned(), vec![request(RequestCall::Ping)]),
        (
            "TopicDescribe".to_owned(),
            vec![
                request(RequestCall::TopicDescribe { name: "orders".into() }),
                request(RequestCall::TopicDescribe { name: "a-longer-name".into() }),
            ],
        ),
        (
            "TopicCreate".to_owned(),
            vec![request(RequestCall::TopicCreate { name: "orders".into(), partitions: 4, settings })],
        ),
        ("Append".to_owned(), vec![request(RequestCall::Append(append))]),
        (
            "Appended".to_owned(),
            vec![response(ResponseAnswer::Appended { base_offset: 42, broker_time: 5, duplicate: true })],
        ),
        (
            "Refused".to_owned(),
            vec![response(ResponseAnswer::Refused {
                code: ErrorCode::NotOwner,
                detail: "no".into(),
                next_offset: Some(3),
            })],
        ),
        ("batch".to_owned(), vec![batch.finish().body.to_vec()]),
    ]);
    assert_eq!(examples(), expected);
    assert_eq!((size_of::<ArchivedRequest>(), size_of::<ArchivedResponse>()), (59, 73));
}

#[test]
fn the_specification_lists_every_refusal_and_which_to_retry() {
    let text = include_str!("../../docs/native-protocol.md");
    let chapter = text.split("## 5. Refusals").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut listed = 0u8;
    for line in chapter.lines().filter(|line| line.contains(" | `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        listed += 1;
        assert_eq!(cells[1], listed.to_string());
        let plain =
            ResponseAnswer::Refused { code: ErrorCode::Protocol, detail: String::new(), next_offset: None };
        let mut bytes = response(plain);
        bytes[9] = listed;
        let read = rkyv::from_bytes::<Response, Error>(&bytes).unwrap();
        let ResponseAnswer::Refused { code, .. } = read.answer else { panic!("{line}") };
        assert_eq!(cells[2], format!("`{code:?}`"));
        let retry = cells[3] == "yes" || code == ErrorCode::NotOwner;
        assert_eq!(retry, code.is_retriable(), "{line}");
    }
    let mut beyond = response(ResponseAnswer::Pong);
    beyond[8..10].copy_from_slice(&[0, listed + 1]);
    assert!(rkyv::from_bytes::<Response, Error>(&beyond).is_err(), "a code that the table lacks");
}
