//! Transactions of one partition, alone.

use martlet_core::ProducerId;

use super::Transactions;
use crate::codec::{Reader, Writer};

const A: ProducerId = ProducerId(1);
const B: ProducerId = ProducerId(2);

/// A writes at 0 and aborts at 3; B writes at 1 and commits at 5.
fn sample() -> Transactions {
    let mut transactions = Transactions::default();
    transactions.begin(A, 0, 0);
    transactions.begin(B, 0, 1);
    transactions.begin(A, 0, 2);
    assert_eq!(transactions.end(A, 3, true, 3), Some(0));
    assert_eq!(transactions.end(B, 5, false, 3), Some(1));
    transactions
}

#[test]
fn what_is_stable_ends_where_an_end_is_not_durable() {
    let mut transactions = sample();
    assert_eq!(transactions.stable(3), 0);
    assert_eq!(transactions.stable(4), 1);
    assert_eq!(transactions.stable(5), 1);
    assert_eq!(transactions.stable(6), 6);
    transactions.begin(B, 0, 6);
    assert_eq!(transactions.stable(9), 6);
    assert_eq!(transactions.end(B, 9, false, 9), Some(6));
    assert_eq!((transactions.stable(9), transactions.stable(10)), (6, 10));
    assert_eq!(transactions.end(B, 10, false, 10), None);
    assert_eq!(transactions.stable(10), 10);
}

#[test]
fn aborted_transactions_are_told_by_range_and_forgotten_with_their_records() {
    let mut transactions = sample();
    assert_eq!(transactions.aborted(0, 6), vec![(A, 0)]);
    assert_eq!(transactions.aborted(3, 6), vec![(A, 0)]);
    assert_eq!(transactions.aborted(4, 6), vec![]);
    transactions.begin(B, 0, 6);
    transactions.begin(A, 0, 7);
    transactions.end(A, 8, true, 8);
    transactions.end(B, 9, true, 9);
    assert_eq!(transactions.aborted(0, 10), vec![(A, 0), (A, 7), (B, 6)]);
    assert_eq!(transactions.aborted(0, 7), vec![(A, 0), (B, 6)]);
    assert_eq!(transactions.aborted(9, 10), vec![(B, 6)]);
    assert_eq!(transactions.aborted(0, 1), vec![(A, 0)]);
    transactions.trim(4);
    assert_eq!(transactions.aborted(0, 10), vec![(A, 7), (B, 6)]);
}

#[test]
fn what_was_staged_is_taken_back_and_the_rest_comes_back_from_bytes() {
    let mut transactions = sample();
    transactions.begin(A, 1, 6);
    transactions.drop_staged(5);
    assert_eq!(transactions.open(A), None);
    assert_eq!(transactions.open(B).map(|open| open.first), Some(1));
    assert_eq!(transactions.stable(5), 1);
    let mut writer = Writer::default();
    transactions.encode(&mut writer);
    let mut decoded = Transactions::decode(&mut Reader::new(&writer.bytes)).unwrap();
    assert_eq!(decoded, transactions);
    decoded.drop_beyond(1);
    assert_eq!((decoded.stable(9), decoded.has_aborted()), (9, true));
}
