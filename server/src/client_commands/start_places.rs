//! Where reading begins in each partition. Owns what becomes of an offset that a partition does not have:
//! one that was meant for just this partition is refused, one that was meant for all is made to fit and told.

use std::collections::BTreeMap;

use martlet_client::Admin;
use martlet_core::native::OffsetAt;
use martlet_core::{ErrorCode, Refusal};

use super::{ago, failure};
use crate::cli::{Place, Places};
use crate::failure::Failure;

/// Partitions named in one note; the rest is counted.
const NAMED_MAX: usize = 8;

/// A place that was asked for, as this topic has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Fitted {
    /// Offset to begin at, by partition.
    pub(super) begins: BTreeMap<u32, u64>,
    /// Records below this are not wanted: the end of the partition lies below the offset.
    pub(super) wanted_from: BTreeMap<u32, u64>,
    /// What was made to fit, for people.
    pub(super) notes: Vec<String>,
}

/// The place as the protocol names it; `Err(offset)` for a plain offset.
pub(super) fn offset_at(place: Place) -> Result<OffsetAt, u64> {
    match place {
        Place::Earliest => Ok(OffsetAt::Earliest),
        Place::Latest => Ok(OffsetAt::Latest),
        Place::Offset(offset) => Err(offset),
        Place::Time(time) => Ok(OffsetAt::Time(time)),
        Place::Ago(age) => Ok(OffsetAt::Time(ago(age))),
    }
}

/// Finds the offset of its place in each of `partitions`, given as (index, id).
///
/// # Errors
/// A place for a partition that is not among them; an offset beyond the end that was meant for one partition.
pub(super) async fn fit(
    admin: &Admin,
    server: &str,
    topic: &str,
    places: &Places,
    partitions: &[(u32, u64)],
) -> Result<Fitted, Failure> {
    if let Some(strange) = places.named().find(|named| partitions.iter().all(|(index, _)| index != named)) {
        return Err(Failure::Usage(format!("a place is given for partition {strange}, which is not read")));
    }
    let is_meant = partitions.len() == 1 || matches!(places, Places::Each(_));
    let mut fitted = Fitted::default();
    let (mut above, mut below) = (Vec::new(), Vec::new());
    for &(index, partition) in partitions {
        let ask = async |at| {
            let found = admin.offset_for(partition, at).await;
            found.map(|(offset, _)| offset).map_err(|error| failure(error, server))
        };
        let offset = match offset_at(places.of(index)) {
            Ok(at) => ask(at).await?,
            Err(wanted) => {
                let (start, end) = (ask(OffsetAt::Earliest).await?, ask(OffsetAt::Latest).await?);
                if wanted > end && is_meant {
                    return Err(beyond(topic, index, wanted, end));
                }
                if wanted > end {
                    above.push(format!("{index} (ends at {end})"));
                    fitted.wanted_from.insert(index, wanted);
                } else if wanted < start {
                    below.push(format!("{index} (begins at {start})"));
                }
                wanted.clamp(start, end.max(start))
            }
        };
        fitted.begins.insert(index, offset);
    }
    if !above.is_empty() {
        fitted.notes.push(format!("the offset is not there yet in partition {}", listed(&above)));
    }
    if !below.is_empty() {
        let removed = "older records were removed, reading begins at the first that is left in partition";
        fitted.notes.push(format!("{removed} {}", listed(&below)));
    }
    Ok(fitted)
}

pub(super) fn beyond(topic: &str, partition: u32, wanted: u64, end: u64) -> Failure {
    let detail = format!(
        "there is no offset {wanted} in partition {partition} of {topic} yet, which ends at {end}: \
         begin at {end} or before it, or at latest"
    );
    Failure::Refused(Refusal::at(ErrorCode::OffsetOutOfRange, end, detail))
}

fn listed(parts: &[String]) -> String {
    let shown = parts.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match parts.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
