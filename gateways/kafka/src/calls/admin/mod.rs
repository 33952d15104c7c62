//! What administrators ask for: topics, their settings, the cluster.

mod cluster;
mod configs;
mod create;
mod topics;

pub(crate) use cluster::{
    describe_client_quotas, describe_cluster, describe_log_dirs, list_partition_reassignments,
};
pub(crate) use configs::{alter_configs, describe_configs, incremental_alter_configs};
pub(crate) use create::{create_partitions, create_topics};
pub(crate) use topics::{delete_topics, describe_topic_partitions};

use kafka_protocol::ResponseError;
use kafka_protocol::protocol::StrBytes;
use martlet_core::{ErrorCode, Refusal};

/// An error with words for the client.
struct Refused(ResponseError, String);

impl Refused {
    fn code(&self) -> i16 {
        crate::errors::code(self.0)
    }

    fn words(&self) -> Option<StrBytes> {
        Some(StrBytes::from(self.1.clone()))
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        let error = match refusal.code {
            // Of topics' calls, only settings and numbers of partitions are arguments.
            ErrorCode::InvalidArgument => ResponseError::InvalidConfig,
            ErrorCode::QuotaExceeded => ResponseError::PolicyViolation,
            ErrorCode::NotAuthorized => ResponseError::TopicAuthorizationFailed,
            code => crate::errors::of(code),
        };
        Refused(error, refusal.detail)
    }
}

fn refuse<T>(error: ResponseError, text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(error, text.into()))
}
