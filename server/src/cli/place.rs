//! Places in a partition as the command line names them: ends, offsets, times, ages, for all partitions or
//! for each. Owns how they are read; what is at a place only the broker knows.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use martlet_core::config::parse_duration;

/// A place in one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Earliest,
    Latest,
    Offset(u64),
    /// Wall milliseconds.
    Time(i64),
    /// So long ago.
    Ago(Duration),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        match text {
            "earliest" => return Ok(Place::Earliest),
            "latest" => return Ok(Place::Latest),
            _ => {}
        }
        if let Ok(offset) = text.parse() {
            return Ok(Place::Offset(offset));
        }
        if let Some(age) = text.strip_prefix('-') {
            return parse_duration(age).map(Place::Ago);
        }
        let milliseconds = text.strip_prefix('@').and_then(since_epoch);
        milliseconds.or_else(|| from_rfc3339(text)).map(Place::Time).ok_or_else(|| {
            "use earliest, latest, an offset, a time as 2026-01-31T12:00:00Z, @MILLISECONDS or @SECONDSs, an \
             age as -10m, or PARTITION:PLACE,PARTITION:PLACE"
                .into()
        })
    }
}

/// Places in the partitions of a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Places {
    /// The same in all.
    All(Place),
    /// By partition; those that are not named begin at the earliest.
    Each(BTreeMap<u32, Place>),
}

impl Places {
    /// The place in `partition`.
    pub(crate) fn of(&self, partition: u32) -> Place {
        match self {
            Places::All(place) => *place,
            Places::Each(places) => places.get(&partition).copied().unwrap_or(Place::Earliest),
        }
    }

    /// Partitions that are named.
    pub(crate) fn named(&self) -> impl Iterator<Item = u32> {
        let places = match self {
            Places::All(_) => None,
            Places::Each(places) => Some(places),
        };
        places.into_iter().flat_map(|places| places.keys().copied())
    }
}

impl FromStr for Places {
    type Err = String;

    fn from_str(text: &str) -> Result<Places, String> {
        if partition_in_front(text).is_none() {
            return text.parse().map(Places::All);
        }
        let mut places = BTreeMap::new();
        for part in text.split(',') {
            let (partition, place) = partition_in_front(part)
                .ok_or(format!("`{part}` is not PARTITION:PLACE, as in 0:12,1:40"))?;
            if places.insert(partition, place.parse()?).is_some() {
                return Err(format!("partition {partition} is named twice"));
            }
        }
        Ok(Places::Each(places))
    }
}

/// `3:earliest` as 3 and `earliest`. No time begins with digits and a colon.
fn partition_in_front(text: &str) -> Option<(u32, &str)> {
    let (partition, place) = text.split_once(':')?;
    Some((partition.parse().ok()?, place))
}

/// Wall milliseconds from `1769860800000`, or from `1769860800s`.
fn since_epoch(text: &str) -> Option<i64> {
    match text.strip_suffix('s') {
        Some(seconds) => seconds.parse::<i64>().ok()?.checked_mul(1000),
        None => text.parse().ok(),
    }
}

/// Wall milliseconds of an RFC 3339 time; without an offset it is UTC.
fn from_rfc3339(text: &str) -> Option<i64> {
    let parsed: toml::value::Datetime = text.parse().ok()?;
    let date = parsed.date?;
    let time = parsed.time;
    let (year, month, day) = (i64::from(date.year), i64::from(date.month), i64::from(date.day));
    // Days since 1970-01-01 in the proleptic Gregorian calendar, counting years from March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days =
        365 * shifted + shifted.div_euclid(4) - shifted.div_euclid(100) + shifted.div_euclid(400) + of_year
            - 719_468;
    let seconds = time.map_or(0, |time| {
        i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second.unwrap_or(0))
    });
    let milliseconds = time.map_or(0, |time| i64::from(time.nanosecond.unwrap_or(0)) / 1_000_000);
    let offset_minutes = match parsed.offset {
        Some(toml::value::Offset::Custom { minutes }) => i64::from(minutes),
        _ => 0,
    };
    Some((days * 86_400 + seconds - offset_minutes * 60) * 1000 + milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_in_every_form() {
        assert_eq!("earliest".parse(), Ok(Place::Earliest));
        assert_eq!("42".parse(), Ok(Place::Offset(42)));
        assert_eq!("@1500".parse(), Ok(Place::Time(1500)));
        assert_eq!("@1700000000s".parse(), Ok(Place::Time(1_700_000_000_000)));
        assert_eq!("-10m".parse(), Ok(Place::Ago(Duration::from_secs(600))));
        assert_eq!("1970-01-01".parse(), Ok(Place::Time(0)));
        assert_eq!("2000-03-01T00:00:00Z".parse(), Ok(Place::Time(951_868_800_000)));
        assert_eq!("2000-03-01 00:00:00".parse(), Ok(Place::Time(951_868_800_000)));
        assert_eq!("2026-11-21T22:55:00.250+01:00".parse(), Ok(Place::Time(1_795_298_100_250)));
        for bad in ["", "soon", "-", "@x", "@s", "@9999999999999999s", "2026-13-01T00:00:00Z", "12:00:00"] {
            assert!(bad.parse::<Place>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn places_may_be_given_for_each_partition() {
        let each: Places = "0:12,3:latest,1:-1h,2:2000-03-01T00:00:00Z".parse().unwrap();
        assert_eq!(each.of(0), Place::Offset(12));
        assert_eq!(each.of(1), Place::Ago(Duration::from_secs(3600)));
        assert_eq!(each.of(2), Place::Time(951_868_800_000));
        assert_eq!((each.of(3), each.of(4)), (Place::Latest, Place::Earliest));
        assert_eq!(each.named().collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!("2000-03-01T00:00:00Z".parse(), Ok(Places::All(Place::Time(951_868_800_000))));
        for (bad, part) in
            [("0:1,0:2", "twice"), ("0:1,2", "PARTITION:PLACE"), ("0:", "earliest"), ("x:1", "use")]
        {
            assert!(bad.parse::<Places>().unwrap_err().contains(part), "{bad}");
        }
    }
}
