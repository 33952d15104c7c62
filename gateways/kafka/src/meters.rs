//! What the gateway counts, by request, for those who watch. Owns the counters, one set for each shard so
//! that no two cores write to the same; must never make a request wait, or hold more than its table's size.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kafka_protocol::ResponseError;
use martlet_core::ShardId;

use crate::table::APIS;

/// Upper bounds of the buckets of a request's time, in microseconds; the last bucket has none.
pub const REQUEST_BUCKETS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000, 30_000_000,
];
const BUCKETS: usize = REQUEST_BUCKETS_US.len() + 1;
/// Errors have the codes -1 to this one less two; those beyond share the last place.
const ERRORS: usize = 160;

thread_local! {
    /// Errors that were written into the answer that is being made on this thread.
    static NOTED: RefCell<Vec<i16>> = const { RefCell::new(Vec::new()) };
}

/// Notes an error that goes into an answer.
pub(crate) fn note(code: i16) {
    NOTED.with_borrow_mut(|noted| noted.push(code));
}

/// The counters of one request.
#[derive(Debug)]
struct ApiMeter {
    sum_us: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
    errors: [AtomicU64; ERRORS],
}

impl Default for ApiMeter {
    fn default() -> ApiMeter {
        ApiMeter {
            sum_us: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            errors: [const { AtomicU64::new(0) }; ERRORS],
        }
    }
}

/// The counters of one shard, which alone adds to them.
#[derive(Debug)]
#[repr(align(128))]
struct ShardMeters {
    apis: Vec<ApiMeter>,
    unserved: AtomicU64,
    fetched_bytes: AtomicU64,
    fetch_copied_bytes: AtomicU64,
}

/// The counters of all shards.
#[derive(Debug)]
pub struct KafkaMeters {
    shards: Vec<ShardMeters>,
}

/// What was counted of one request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RequestCounts {
    /// The request, as the table names it.
    pub api: &'static str,
    /// From the request's arrival until its answer was made; a fetch that waits for records waits within it.
    pub sum_us: u64,
    /// Answers by their time, one place more than [`REQUEST_BUCKETS_US`].
    pub buckets: Vec<u64>,
    /// Errors told, by Kafka's name; one answer may tell of several.
    pub errors: Vec<(String, u64)>,
}

/// What was counted since the start, of all shards together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KafkaCounts {
    /// Only those that came at least once.
    pub requests: Vec<RequestCounts>,
    /// Requests of a key or version that is not served.
    pub unserved: u64,
    /// Bytes of record batches in answers to fetches.
    pub fetched_bytes: u64,
    /// Of these, bytes that were made anew in memory instead of referred to where they were read.
    pub fetch_copied_bytes: u64,
}

impl KafkaMeters {
    #[must_use]
    pub fn new(shards: u16) -> KafkaMeters {
        let shard = |_| ShardMeters {
            apis: APIS.iter().map(|_| ApiMeter::default()).collect(),
            unserved: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
            fetch_copied_bytes: AtomicU64::new(0),
        };
        KafkaMeters { shards: (0..shards.max(1)).map(shard).collect() }
    }

    /// Adds up what the shards counted.
    #[must_use]
    pub fn read(&self) -> KafkaCounts {
        let sum = |read: &dyn Fn(&ShardMeters) -> &AtomicU64| -> u64 {
            self.shards.iter().map(|shard| read(shard).load(Ordering::Relaxed)).sum()
        };
        let request = |at: usize| {
            let buckets: Vec<u64> =
                (0..BUCKETS).map(|bucket| sum(&|shard| &shard.apis[at].buckets[bucket])).collect();
            let mut errors: BTreeMap<String, u64> = BTreeMap::new();
            for place in 0..ERRORS {
                let count = sum(&|shard| &shard.apis[at].errors[place]);
                if count > 0 {
                    *errors.entry(name_of(place)).or_default() += count;
                }
            }
            let sum_us = sum(&|shard| &shard.apis[at].sum_us);
            RequestCounts { api: APIS[at].name, sum_us, buckets, errors: errors.into_iter().collect() }
        };
        let came = |counts: &RequestCounts| counts.buckets.iter().any(|count| *count > 0);
        KafkaCounts {
            requests: (0..APIS.len()).map(request).filter(came).collect(),
            unserved: sum(&|shard| &shard.unserved),
            fetched_bytes: sum(&|shard| &shard.fetched_bytes),
            fetch_copied_bytes: sum(&|shard| &shard.fetch_copied_bytes),
        }
    }
}

/// The place of an error's counter.
fn place_of(code: i16) -> usize {
    usize::try_from(i32::from(code) + 1).unwrap_or(0).min(ERRORS - 1)
}

/// Kafka's name of the error that is counted at this place, as `UNKNOWN_TOPIC_OR_PARTITION`.
fn name_of(place: usize) -> String {
    let code = i16::try_from(place).unwrap_or(i16::MAX) - 1;
    let error = match ResponseError::try_from_code(code) {
        None | Some(ResponseError::Unknown(_)) => return "OTHER".to_owned(),
        Some(error) => format!("{error:?}"),
    };
    let mut name = String::new();
    for letter in error.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// One shard's counters, as its connections hold them.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    all: Arc<KafkaMeters>,
    shard: usize,
}

fn add(counter: &AtomicU64, count: u64) {
    // Nobody else writes: no exchange is needed.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

impl Meters {
    pub(crate) fn new(all: &Arc<KafkaMeters>, shard: ShardId) -> Meters {
        let shard = usize::from(shard.0);
        assert!(shard < all.shards.len(), "the gateway was made for the shards of its node");
        Meters { all: all.clone(), shard }
    }

    fn own(&self) -> &ShardMeters {
        &self.all.shards[self.shard]
    }

    /// Counts an answer to the request at `at` of the table.
    pub(crate) fn answered(&self, at: usize, time: Duration) {
        let meter = &self.own().apis[at];
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        add(&meter.sum_us, us);
        add(&meter.buckets[REQUEST_BUCKETS_US.partition_point(|bound| *bound < us)], 1);
    }

    /// Counts the errors that were noted since the last call for the request at `at` of the table. Called
    /// after each step of an answer, so that none is counted for another.
    pub(crate) fn take_errors(&self, at: usize) {
        NOTED.with_borrow_mut(|noted| {
            for code in noted.drain(..) {
                add(&self.own().apis[at].errors[place_of(code)], 1);
            }
        });
    }

    pub(crate) fn unserved(&self) {
        add(&self.own().unserved, 1);
    }

    /// Counts batches of an answer to a fetch.
    pub(crate) fn fetched(&self, bytes: usize, copied: usize) {
        add(&self.own().fetched_bytes, bytes as u64);
        add(&self.own().fetch_copied_bytes, copied as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors;

    #[test]
    fn what_shards_count_is_added_up() {
        let all = Arc::new(KafkaMeters::new(2));
        assert_eq!(all.read(), KafkaCounts { requests: Vec::new(), ..KafkaCounts::default() });
        for (shard, us) in [(0, 100), (1, 101), (1, 60_000_000)] {
            Meters::new(&all, ShardId(shard)).answered(3, Duration::from_micros(us));
        }
        let meters = Meters::new(&all, ShardId(1));
        errors::code(ResponseError::UnknownTopicOrPartition);
        errors::code(ResponseError::UnknownTopicOrPartition);
        errors::code(ResponseError::UnknownServerError);
        meters.take_errors(3);
        meters.take_errors(0);
        meters.fetched(10, 4);
        meters.unserved();
        let counts = all.read();
        let [request] = &counts.requests[..] else { panic!("{counts:?}") };
        assert_eq!((request.api, request.sum_us), ("Metadata", 60_000_201));
        let mut buckets = vec![0; BUCKETS];
        (buckets[0], buckets[1], buckets[BUCKETS - 1]) = (1, 1, 1);
        assert_eq!(request.buckets, buckets);
        let errors = [("UNKNOWN_SERVER_ERROR", 1), ("UNKNOWN_TOPIC_OR_PARTITION", 2)];
        assert_eq!(request.errors, errors.map(|(name, count)| (name.to_owned(), count)));
        assert_eq!((counts.unserved, counts.fetched_bytes, counts.fetch_copied_bytes), (1, 10, 4));
    }

    #[test]
    fn every_error_has_a_place_of_its_own() {
        for code in -1..200 {
            let error = ResponseError::try_from_code(code);
            if error.is_some_and(|error| !matches!(error, ResponseError::Unknown(_))) {
                assert_ne!(name_of(place_of(code)), "OTHER", "{error:?} {code}");
            }
        }
        assert_eq!(place_of(i16::MAX), place_of(1000));
        assert_eq!(name_of(ERRORS - 1), "OTHER");
    }
}
