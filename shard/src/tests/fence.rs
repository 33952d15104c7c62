//! After the log has failed: every call has an end, and says what is wrong.

use super::*;

fn open(bench: &mut Bench) -> CallToken {
    bench.submit(Call::ProducerOpen)
}

#[test]
fn nobody_waits_for_producer_ids_that_will_never_come() {
    let mut bench = Bench::new();
    let waiting = open(&mut bench);
    bench.engine.fence(&mut bench.log, "EIO", bench.now);
    bench.collect();
    let later = open(&mut bench);
    for token in [waiting, later] {
        let refused = bench.take(token).expect("answered").unwrap_err();
        assert_eq!(refused.code, ErrorCode::StorageFenced);
    }
}

#[test]
fn a_cursor_that_stands_where_it_should_is_told_so() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[])[0];
    bench.call(Call::Append(plain(id, 9))).unwrap();
    let set = |offset| Call::CursorSet { partition: id, cursor: "c".into(), offset, reset: false };
    bench.call(set(3)).unwrap();
    bench.submit(set(5));
    bench.engine.fence(&mut bench.log, "EIO", bench.now);
    assert_eq!(bench.call(set(3)), Ok(Reply::Cursor { offset: Some(3) }));
    assert_eq!(bench.refused(set(5)), ErrorCode::StorageFenced);
}
