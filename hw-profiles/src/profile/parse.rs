//! From TOML to a profile, and from a flag to a value: checks every name and range.

use std::collections::BTreeMap;

use toml::Table;
use toml::Value as Toml;

use super::keys::{Key, Kind, find, nearest};
use super::resolve::{Value, may_be_auto};
use super::{Evidence, Match, Profile, ProfileError, SCHEMA, Status, matching};

/// Sections that hold keys of the table.
const SECTIONS: &[&str] = &["require", "shards", "wal", "io_uring", "net", "memory", "os"];

pub(super) fn parse(text: &str, origin: &str) -> Result<Profile, ProfileError> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| ProfileError::Syntax {
        origin: origin.to_owned(),
        why: error.message().to_owned(),
    })?;
    match table.get("schema") {
        Some(Toml::Integer(SCHEMA)) => {}
        found => {
            let found = found.map_or_else(|| "missing".to_owned(), ToString::to_string);
            return Err(ProfileError::Schema { origin: origin.to_owned(), found });
        }
    }
    let mut profile = Profile::default();
    for (name, value) in &table {
        match (name.as_str(), value) {
            ("schema", _) => {}
            ("name", Toml::String(text)) => profile.name.clone_from(text),
            ("about", Toml::String(text)) => profile.about.clone_from(text),
            ("inherits", Toml::String(text)) => profile.inherits = Some(text.clone()),
            ("firmware", Toml::Array(_)) => profile.firmware = words(origin, name, value)?,
            ("match", Toml::Table(rules)) => profile.matches = Some(read_match(rules, origin)?),
            ("evidence", Toml::Table(table)) => profile.evidence = evidence(table, origin)?,
            (section, Toml::Table(keys)) if SECTIONS.contains(&section) => {
                for (key, value) in keys {
                    let (key, value) = value_of(&format!("{section}.{key}"), value, origin)?;
                    profile.values.insert(key.name, value);
                }
            }
            _ => return Err(unknown(origin, name)),
        }
    }
    if profile.name.is_empty() {
        return Err(refused(origin, "name", "", "every profile has a name"));
    }
    Ok(profile)
}

fn unknown(origin: &str, key: &str) -> ProfileError {
    ProfileError::UnknownKey { origin: origin.to_owned(), key: key.to_owned(), nearest: nearest(key) }
}

fn refused(origin: &str, key: &str, value: &str, why: impl Into<String>) -> ProfileError {
    let (key, value) = (key.to_owned(), value.to_owned());
    ProfileError::Value { origin: origin.to_owned(), key, value, why: why.into() }
}

fn words(origin: &str, key: &str, value: &Toml) -> Result<Vec<String>, ProfileError> {
    let word = |word: &Toml| word.as_str().map(str::to_owned);
    let words = value.as_array().and_then(|words| words.iter().map(word).collect::<Option<Vec<_>>>());
    words.ok_or_else(|| refused(origin, key, &value.to_string(), "write a list of texts"))
}

fn evidence(table: &Table, origin: &str) -> Result<Evidence, ProfileError> {
    let mut evidence = Evidence::default();
    for (name, value) in table {
        match (name.as_str(), value.as_str()) {
            ("status", Some("unverified")) => evidence.status = Status::Unverified,
            ("status", Some("emulated")) => evidence.status = Status::Emulated,
            ("status", Some("measured")) => evidence.status = Status::Measured,
            ("status", _) => {
                let why = "use unverified, emulated or measured";
                return Err(refused(origin, "evidence.status", &value.to_string(), why));
            }
            ("sources", _) => evidence.sources = words(origin, "evidence.sources", value)?,
            _ => return Err(unknown(origin, &format!("evidence.{name}"))),
        }
    }
    Ok(evidence)
}

fn read_match(rules: &Table, origin: &str) -> Result<Match, ProfileError> {
    let mut found = Match::default();
    for (name, value) in rules {
        let bad = |why: &str| refused(origin, &format!("match.{name}"), &value.to_string(), why);
        let count = || value.as_integer().and_then(|count| usize::try_from(count).ok());
        match name.as_str() {
            "arch" => found.arch = Some(value.as_str().ok_or_else(|| bad("write a text"))?.to_owned()),
            "vendor" => found.vendor = words(origin, "match.vendor", value)?,
            "kernel" => found.kernel = Some(value.as_str().ok_or_else(|| bad("write a text"))?.to_owned()),
            "cpus_min" => found.cpus_min = Some(count().ok_or_else(|| bad("write a number"))?),
            "cpus_max" => found.cpus_max = Some(count().ok_or_else(|| bad("write a number"))?),
            "midr" => {
                let midr = value.as_array().and_then(|list| list.iter().map(matching::midr).collect());
                let why = "write [{ implementer = 0x70, part = 0x663 }]";
                found.midr = Option::ok_or_else(midr, || bad(why))?;
            }
            _ => return Err(unknown(origin, &format!("match.{name}"))),
        }
    }
    Ok(found)
}

fn value_of(name: &str, value: &Toml, origin: &str) -> Result<(&'static Key, Value), ProfileError> {
    let key = find(name).ok_or_else(|| unknown(origin, name))?;
    let bad = |why: String| refused(origin, name, &value.to_string(), why);
    let read = match (key.kind, value) {
        (Kind::Table, Toml::Table(table)) => {
            let pairs = table.iter().map(|(name, value)| Some((name.clone(), plain(value)?)));
            let pairs: Option<BTreeMap<String, String>> = pairs.collect();
            Value::Table(pairs.ok_or_else(|| bad("write names with texts or numbers".to_owned()))?)
        }
        (Kind::List, Toml::Array(_)) => Value::List(words(origin, name, value)?),
        (Kind::Table | Kind::List, _) => return Err(bad("write a table or a list".to_owned())),
        (_, value) => {
            let text = plain(value).ok_or_else(|| bad("write a text or a number".to_owned()))?;
            scalar(key, &text).map_err(bad)?
        }
    };
    Ok((key, read))
}

fn plain(value: &Toml) -> Option<String> {
    match value {
        Toml::String(text) => Some(text.clone()),
        Toml::Integer(number) => Some(number.to_string()),
        Toml::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// The value of a key in its text form.
fn scalar(key: &Key, text: &str) -> Result<Value, String> {
    if may_be_auto(key.kind) && text == "auto" {
        return Ok(Value::Text("auto".to_owned()));
    }
    match key.kind {
        Kind::Number { min, max, .. } => match text.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(Value::Number(number)),
            _ => Err(format!("write a number from {min} to {max}")),
        },
        Kind::Bytes { min, max, .. } => match bytes(text) {
            Some(bytes) if (min..=max).contains(&bytes) => Ok(Value::Number(bytes)),
            _ => Err(format!("write bytes from {min} to {max}, as 64KiB")),
        },
        Kind::Choice(names) if names.contains(&text) => Ok(Value::Text(text.to_owned())),
        Kind::Choice(names) => Err(format!("use one of {}", names.join(", "))),
        Kind::Version if kernel_version(text).is_some() => Ok(Value::Text(text.to_owned())),
        Kind::Version => Err("write a version as 5.10".to_owned()),
        Kind::Table => Err("cannot be set by a flag".to_owned()),
        Kind::List => Ok(Value::List(text.split_whitespace().map(str::to_owned).collect())),
    }
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let factor = match &text[digits..] {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(factor)
}

/// The first two numbers of a kernel's name: `4.19.90-2003.ky10` is (4, 19).
#[must_use]
pub(crate) fn kernel_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn default_of(key: &Key) -> Value {
    match key.kind {
        Kind::Table => Value::Table(BTreeMap::new()),
        _ => scalar(key, key.default).unwrap_or_else(|_| Value::Text(key.default.to_owned())),
    }
}

pub(super) fn from_flag(name: &str, text: &str) -> Result<(&'static Key, Value), ProfileError> {
    let origin = "flag";
    let key = find(name).ok_or_else(|| unknown(origin, name))?;
    let value = scalar(key, text).map_err(|why| refused(origin, name, text, why))?;
    Ok((key, value))
}
