//! Cursors: never back, never told before they are durable.

use std::time::Duration;

use martlet_core::limits::PARTITION_CURSORS_MAX;

use super::*;

fn set(id: PartitionId, offset: u64, reset: bool) -> Call {
    Call::CursorSet { partition: id, cursor: "c".into(), offset, reset }
}

fn get(bench: &mut Bench, id: PartitionId) -> Option<u64> {
    let token = bench.submit(Call::CursorGet { partition: id, cursor: "c".into() });
    match bench.take(token) {
        Some(Ok(Reply::Cursor { offset })) => offset,
        other => panic!("{other:?}"),
    }
}

fn position(reply: Option<Result<Reply, Refusal>>) -> u64 {
    match reply {
        Some(Ok(Reply::Cursor { offset: Some(offset) })) => offset,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cursor_is_told_when_durable_and_goes_back_only_by_reset() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[])[0];
    bench.call(Call::Append(plain(id, 9))).unwrap();
    assert_eq!(get(&mut bench, id), None);
    let first = bench.submit(set(id, 5, false));
    let lower = bench.submit(set(id, 3, false));
    assert_eq!(get(&mut bench, id), None);
    bench.flush();
    assert_eq!(position(bench.take(first)), 5);
    assert_eq!(position(bench.take(lower)), 5);
    assert_eq!(position(Some(bench.call(set(id, 2, false)))), 5);
    let reset = bench.submit(set(id, 2, true));
    assert_eq!(get(&mut bench, id), Some(5));
    bench.flush();
    assert_eq!(position(bench.take(reset)), 2);
    let refused = bench.call(set(id, 10, false)).unwrap_err();
    assert_eq!((refused.code, refused.next_offset), (ErrorCode::OffsetOutOfRange, Some(9)));
    assert_eq!(
        bench.refused(Call::CursorSet { partition: id, cursor: "a b".into(), offset: 0, reset: true }),
        ErrorCode::InvalidName
    );
}

#[test]
fn deletion_is_durable_too_and_can_be_undone_by_setting_again() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[])[0];
    bench.call(Call::Append(plain(id, 9))).unwrap();
    let delete = || Call::CursorDelete { partition: id, cursor: "c".into() };
    assert_eq!(bench.refused(delete()), ErrorCode::UnknownCursor);
    bench.call(set(id, 5, false)).unwrap();
    let deleted = bench.submit(delete());
    assert_eq!(get(&mut bench, id), Some(5));
    let again = bench.submit(set(id, 1, false));
    bench.flush();
    assert_eq!(bench.take(deleted), Some(Ok(Reply::Done)));
    assert_eq!(position(bench.take(again)), 1);
    assert_eq!(get(&mut bench, id), Some(1));
    bench.call(delete()).unwrap();
    bench.restart(bench.log.end(), None);
    assert_eq!(get(&mut bench, id), None);
}

#[test]
fn cursors_are_bounded_listed_and_clamped_to_the_log_start() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[("retention_bytes", "0")])[0];
    for _ in 0..5 {
        bench.call(Call::Append(plain(id, 1))).unwrap();
    }
    for n in 0..PARTITION_CURSORS_MAX {
        let cursor = format!("{n:04}");
        bench.submit(Call::CursorSet { partition: id, cursor, offset: n as u64 % 2, reset: false });
    }
    bench.flush();
    assert_eq!(bench.refused(set(id, 1, false)), ErrorCode::QuotaExceeded);
    bench.pass(Duration::from_secs(31));
    let Ok(Reply::Cursors(list)) = bench.call(Call::CursorList { partition: id }) else { panic!() };
    assert_eq!(list.len(), PARTITION_CURSORS_MAX);
    assert_eq!(list[3], ("0003".to_owned(), 4));
}
