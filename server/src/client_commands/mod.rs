//! Commands that talk to a broker over the native protocol, those about groups over Kafka's. Owns how the
//! client is set up and how its errors become exit codes.

pub(crate) mod consume;
pub(crate) mod cursor;
pub(crate) mod facts;
mod framing;
pub(crate) mod group;
mod interrupt;
mod outage;
pub(crate) mod produce;
mod record_json;
mod start_places;
pub(crate) mod status;
pub(crate) mod topic;

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use martlet_client::{Admin, ClientError, ConnectConfig};
use martlet_core::native::TopicDescription;
use martlet_core::{ErrorCode, Refusal, TopicName};

use crate::failure::Failure;

/// How long a command tries to reach its broker; `produce` tries longer.
const START_WAIT_MAX: Duration = Duration::from_secs(3);

/// The broker to talk to when none is named.
const SERVER: &str = "127.0.0.1:7650";

/// How the client says that the other side ended a connection.
const CLOSED: &str = "the broker closed the connection";

/// The broker to talk to: the one that was asked for, if any.
pub(crate) fn server(asked: Option<&str>) -> Result<&str, Failure> {
    let server = asked.unwrap_or(SERVER);
    let is_whole = |(host, port): (&str, &str)| {
        let is_host = !host.is_empty() && (!host.contains(':') || host.starts_with('['));
        is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    if server.rsplit_once(':').is_some_and(is_whole) {
        return Ok(server);
    }
    Err(Failure::Usage(format!(
        "`{server}` is no address of a broker: use --server HOST:PORT, as in {SERVER}"
    )))
}

/// Runs `work` on a tokio runtime of one thread.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start the client", &error))?;
    let outcome = runtime.block_on(work);
    // A read of standard input cannot be cancelled; it must not hold up the end.
    runtime.shutdown_background();
    outcome
}

fn connect_config(server: &str, what: &str) -> ConnectConfig {
    let mut config = ConnectConfig::new(server);
    config.client_name = format!("martlet {what}");
    config.start_timeout = START_WAIT_MAX;
    config.seed = seed();
    config
}

async fn admin(server: &str, what: &str) -> Result<Admin, Failure> {
    Admin::connect(connect_config(server, what)).await.map_err(|error| failure(error, server))
}

/// Different in every process: it spreads retries and records without a key.
fn seed() -> u64 {
    wall_ms().unsigned_abs().rotate_left(20) ^ u64::from(std::process::id())
}

/// Wall milliseconds, for ages on the command line.
#[allow(clippy::disallowed_methods, reason = "a command of a person is about that person's clock")]
fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The client's error with the exit code it stands for.
fn failure(error: ClientError, server: &str) -> Failure {
    match error {
        ClientError::Refused { code, detail, next_offset } => {
            Failure::Refused(Refusal { code, detail, next_offset })
        }
        ClientError::Unreachable { ref detail } if detail.ends_with(CLOSED) => Failure::Unreachable(format!(
            "what answers at {server} closes the connection: if no broker is starting or stopping there, \
             name the port that the ready line of `martlet start` shows as native="
        )),
        ClientError::Unreachable { .. } => Failure::Unreachable(format!(
            "no broker at {server}: {}: start one with `martlet start`, or name another with --server",
            reason(&error, server)
        )),
        ClientError::Protocol { detail } => Failure::Unreachable(format!(
            "what answers at {server} does not speak Martlet's native protocol ({detail}): name the port \
             that the ready line of `martlet start` shows as native="
        )),
        ClientError::TimedOut { .. } => Failure::Unreachable(error.to_string()),
        ClientError::InvalidConfig { detail } => Failure::Usage(detail),
        other => Failure::Failed(other.to_string()),
    }
}

/// Why the broker is not there, in few words.
fn reason(error: &ClientError, server: &str) -> String {
    let text = match error {
        ClientError::Unreachable { detail } | ClientError::TimedOut { detail } => detail.clone(),
        other => other.to_string(),
    };
    let text = text.strip_prefix(&format!("{server}: ")).unwrap_or(&text);
    let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(text);
    text.split(" (os error").next().unwrap_or(text).to_lowercase()
}

/// A topic name in its full form.
fn topic_name(text: &str) -> Result<String, Failure> {
    let name: Result<TopicName, Refusal> = text.parse();
    name.map(|name| name.to_string()).map_err(|refusal| Failure::Usage(refusal.detail))
}

/// Adds to "unknown topic" how to make one.
fn with_topic_hint(failure: Failure, topic: &str) -> Failure {
    match failure {
        Failure::Refused(refusal) if refusal.code == ErrorCode::UnknownTopic => {
            let detail = format!("there is no topic {topic}: create it with `martlet topic create {topic}`");
            Failure::Refused(Refusal { detail, ..refusal })
        }
        other => other,
    }
}

async fn describe(admin: &Admin, server: &str, topic: &str) -> Result<TopicDescription, Failure> {
    let name = topic_name(topic)?;
    admin.topic_describe(&name).await.map_err(|error| with_topic_hint(failure(error, server), topic))
}

/// Partitions of the topic as (index, id): all, or the one that was asked for.
fn chosen_partitions(topic: &TopicDescription, chosen: Option<u32>) -> Result<Vec<(u32, u64)>, Failure> {
    let all = (0u32..).zip(&topic.partitions).map(|(index, route)| (index, route.partition));
    match chosen {
        None => Ok(all.collect()),
        Some(wanted) => {
            let found: Vec<(u32, u64)> = all.filter(|(index, _)| *index == wanted).collect();
            if found.is_empty() {
                let count = topic.partitions.len();
                return Err(no_partition(wanted, count));
            }
            Ok(found)
        }
    }
}

fn no_partition(wanted: u32, count: usize) -> Failure {
    Failure::Usage(format!("there is no partition {wanted}: the topic has {count}, numbered from 0"))
}

fn ago(age: Duration) -> i64 {
    wall_ms().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_broker_is_named_with_its_port() {
        assert_eq!(super::server(None).unwrap(), "127.0.0.1:7650");
        for good in ["localhost:1", "[::1]:7650", "10.0.0.1:65535"] {
            assert_eq!(super::server(Some(good)).unwrap(), good);
        }
        for bad in ["", ":", "127.0.0.1", "127.0.0.1:", ":7650", "::1", "host:0", "host:70000", "host:x"] {
            let failure = super::server(Some(bad)).unwrap_err();
            assert!(
                failure.exit_code() == 2 && failure.to_string().contains("HOST:PORT"),
                "{bad}: {failure}"
            );
        }
    }
}
