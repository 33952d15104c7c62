//! Where the partitions of one topic live. Owns when to ask the broker again; must never ask faster than its
//! backoff.

use std::time::Duration;

use martlet_core::native::{RequestCall, ResponseAnswer, TopicDescription};
use martlet_core::{ErrorCode, Instant, Now, Refusal};

use super::backoff::{Backoff, Random, earliest};
use super::network::{Network, Route};
use crate::{ClientError, ConnectConfig};

/// A description is asked for again so often, so that new partitions are seen: soon where that costs next to
/// nothing, later the more partitions have to be named.
const REFRESH_MIN: Duration = Duration::from_secs(2);
const REFRESH_OF_PARTITION: Duration = Duration::from_millis(5);
const REFRESH_MAX: Duration = Duration::from_secs(60);

/// The routes of one topic.
#[derive(Debug)]
pub(crate) struct Topology {
    topic: String,
    servers: Vec<String>,
    next_server: usize,
    description: Option<TopicDescription>,
    asking: bool,
    /// When to ask next; `None` while asking.
    ask_at: Instant,
    backoff: Backoff,
    random: Random,
    backoff_min: Duration,
    backoff_max: Duration,
}

impl Topology {
    pub(crate) fn new(topic: &str, config: &ConnectConfig) -> Topology {
        Topology {
            topic: topic.to_owned(),
            servers: config.servers.clone(),
            next_server: 0,
            description: None,
            asking: false,
            ask_at: Instant(0),
            backoff: Backoff::default(),
            random: Random::new(config.seed ^ 0x746f_706f),
            backoff_min: config.backoff_min,
            backoff_max: config.backoff_max,
        }
    }

    pub(crate) fn description(&self) -> Option<&TopicDescription> {
        self.description.as_ref()
    }

    /// Cluster-wide id and address of a partition.
    pub(crate) fn partition(&self, index: u32) -> Option<(u64, &str)> {
        let route = self.description.as_ref()?.partitions.get(index as usize)?;
        Some((route.partition, route.address.as_str()))
    }

    pub(crate) fn partition_count(&self) -> u32 {
        self.description.as_ref().map_or(0, |description| description.partitions.len() as u32)
    }

    /// The value of a topic setting.
    pub(crate) fn setting(&self, key: &str) -> Option<&str> {
        let settings = &self.description.as_ref()?.settings;
        settings.iter().find(|setting| setting.key == key).map(|setting| setting.value.as_str())
    }

    /// The routes are doubtful: ask as soon as the backoff allows.
    pub(crate) fn doubt(&mut self, now: Now) {
        if !self.asking {
            let at = self.backoff.fail(self.backoff_min, self.backoff_max, &mut self.random, now.instant);
            self.ask_at = self.ask_at.min(at);
        }
    }

    /// A server of the configuration to talk to: through an open connection if there is one.
    pub(crate) fn any_server<T>(&mut self, network: &mut Network<T>, now: Now) -> Route {
        if let Some(connection) = network.any_ready() {
            return Route::Ready(connection);
        }
        let mut wait = None;
        for _ in 0..self.servers.len() {
            let server = &self.servers[self.next_server % self.servers.len()];
            match network.route(server, now) {
                Route::Backoff(until) => {
                    wait = earliest(wait, Some(until));
                    self.next_server = self.next_server.wrapping_add(1);
                }
                other => return other,
            }
        }
        Route::Backoff(wait.unwrap_or(now.instant))
    }

    /// Asks if it is time to.
    pub(crate) fn poll<T>(&mut self, network: &mut Network<T>, tag: T, now: Now) {
        if self.asking || self.ask_at > now.instant {
            return;
        }
        match self.any_server(network, now) {
            Route::Ready(connection) => {
                self.asking = true;
                let call = RequestCall::TopicDescribe { name: self.topic.clone() };
                network.send(connection, call, bytes::Bytes::new(), tag, Duration::ZERO, now);
            }
            Route::Pending => {}
            Route::Backoff(until) => self.ask_at = until,
        }
    }

    /// The answer. `asked` is the address it came from; its host stands in for an empty one in the routes.
    ///
    /// # Errors
    /// A refusal that asking again does not change, for instance of a topic that does not exist.
    pub(crate) fn answered(
        &mut self,
        outcome: Result<ResponseAnswer, Refusal>,
        asked: Option<&str>,
        now: Now,
    ) -> Result<(), ClientError> {
        self.asking = false;
        match outcome {
            Ok(ResponseAnswer::Topic(mut description)) => {
                let host = asked.and_then(|address| address.rsplit_once(':')).map_or("", |(host, _)| host);
                for route in &mut description.partitions {
                    if route.address.starts_with(':') {
                        route.address.insert_str(0, host);
                    }
                }
                self.ask_at = now.instant.after(refresh(description.partitions.len()));
                self.description = Some(description);
                Ok(())
            }
            Ok(_) => {
                self.ask_at = now.instant.after(self.backoff_max);
                Err(ClientError::Protocol { detail: "the answer to TopicDescribe is none".into() })
            }
            Err(refusal) => {
                self.ask_at =
                    self.backoff.fail(self.backoff_min, self.backoff_max, &mut self.random, now.instant);
                let later = refusal.code.is_retriable() || refusal.code == ErrorCode::Internal;
                if later { Ok(()) } else { Err(refusal.into()) }
            }
        }
    }

    /// The connection ended before the answer.
    pub(crate) fn lost(&mut self, now: Now) {
        self.asking = false;
        self.ask_at = self.backoff.fail(self.backoff_min, self.backoff_max, &mut self.random, now.instant);
    }

    /// A call went through: the routes are good.
    pub(crate) fn confirm(&mut self) {
        self.backoff.reset();
    }

    pub(crate) fn next_timer(&self, now: Instant) -> Option<Instant> {
        // A time that has passed while a connection is being made is the connection's business.
        (!self.asking && self.ask_at > now).then_some(self.ask_at)
    }
}

/// Time until a description of so many partitions is asked for again.
fn refresh(partitions: usize) -> Duration {
    let more = REFRESH_OF_PARTITION.saturating_mul(u32::try_from(partitions).unwrap_or(u32::MAX));
    REFRESH_MIN.saturating_add(more).min(REFRESH_MAX)
}

#[cfg(test)]
mod tests {
    use martlet_core::WallTime;

    use super::*;

    #[test]
    fn new_partitions_are_seen_soon_and_large_topics_are_asked_for_rarely() {
        let mut topology = Topology::new("t", &ConnectConfig::new("127.0.0.1:1"));
        let now = Now { instant: Instant(7), wall: WallTime(0) };
        let mut asked_after = |partitions: usize| {
            let route = |partition| martlet_core::native::PartitionRoute {
                partition,
                shard: 0,
                address: ":1".into(),
            };
            let description = TopicDescription {
                id: 1,
                name: "t".into(),
                partitions: (0..partitions as u64).map(route).collect(),
                settings: Vec::new(),
            };
            topology.answered(Ok(ResponseAnswer::Topic(description)), Some("127.0.0.1:1"), now).unwrap();
            topology.next_timer(now.instant).unwrap().since(now.instant).as_millis()
        };
        assert_eq!([1, 100, 5_000, 100_000].map(&mut asked_after), [2_005, 2_500, 27_000, 60_000]);
    }
}
