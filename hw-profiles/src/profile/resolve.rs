//! Layers profiles over each other and over the defaults, and remembers where each value comes from.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::keys::{KEYS, Kind};
use super::{DEPTH_MAX, Evidence, Profile, ProfileError, parse};

/// A value of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub enum Value {
    Number(u64),
    Text(String),
    List(Vec<String>),
    Table(BTreeMap<String, String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => write!(f, "{number}"),
            Value::Text(text) => f.write_str(text),
            Value::List(words) => f.write_str(&words.join(" ")),
            Value::Table(pairs) => {
                let pairs: Vec<String> =
                    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
                f.write_str(&pairs.join(" "))
            }
        }
    }
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The table of keys.
    Default,
    /// A built-in profile, or one that a file names.
    Profile(String),
    /// A flag or a key of the configuration.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Profile(name) => write!(f, "profile {name}"),
            Origin::Flag => f.write_str("flag"),
        }
    }
}

/// A profile with all that it inherits: a value for every key.
#[derive(Clone, PartialEq, Debug)]
pub struct Resolved {
    pub name: String,
    /// From the most general to the profile itself.
    pub chain: Vec<String>,
    pub evidence: Evidence,
    pub firmware: Vec<String>,
    values: BTreeMap<&'static str, (Value, Origin)>,
}

/// Resolves `profile` with its ancestors in `all`.
///
/// # Errors
/// A parent that does not exist, or a circle.
pub fn resolve(profile: &Profile, all: &[Profile]) -> Result<Resolved, ProfileError> {
    let mut chain = vec![profile];
    while let Some(name) = &chain[chain.len() - 1].inherits {
        let origin = || chain[chain.len() - 1].name.clone();
        if chain.len() >= DEPTH_MAX {
            return Err(ProfileError::Depth { origin: origin() });
        }
        let parent = all.iter().find(|other| other.name == *name);
        chain.push(parent.ok_or_else(|| ProfileError::Parent { origin: origin(), name: name.clone() })?);
    }
    chain.reverse();
    let mut values = BTreeMap::new();
    for key in KEYS {
        values.insert(key.name, (parse::default_of(key), Origin::Default));
    }
    for layer in &chain {
        for (name, value) in &layer.values {
            let origin = Origin::Profile(layer.name.clone());
            match (values.get_mut(name), value) {
                // Tables grow from layer to layer; a pair of a later one wins.
                (Some((Value::Table(held), at)), Value::Table(more)) => {
                    held.extend(more.clone());
                    *at = origin;
                }
                _ => {
                    values.insert(name, (value.clone(), origin));
                }
            }
        }
    }
    Ok(Resolved {
        name: profile.name.clone(),
        chain: chain.iter().map(|layer| layer.name.clone()).collect(),
        evidence: profile.evidence.clone(),
        firmware: chain.iter().flat_map(|layer| layer.firmware.clone()).collect(),
        values,
    })
}

impl Resolved {
    /// Sets a key from outside, as a flag does.
    ///
    /// # Errors
    /// An unknown key, or a value that does not fit it.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), ProfileError> {
        let (key, value) = parse::from_flag(name, text)?;
        self.values.insert(key.name, (value, Origin::Flag));
        Ok(())
    }

    /// Every key with its value and origin, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (&'static super::Key, &Value, &Origin)> + '_ {
        KEYS.iter().filter_map(|key| {
            let (value, origin) = self.values.get(key.name)?;
            Some((key, value, origin))
        })
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name).map(|(value, _)| value)
    }

    /// A number or a number of bytes; `None` if it is `auto`.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// A choice or a version; empty if there is none.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        match self.value(name) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    #[must_use]
    pub fn list(&self, name: &str) -> &[String] {
        match self.value(name) {
            Some(Value::List(words)) => words,
            _ => &[],
        }
    }

    pub fn pairs(&self, name: &str) -> impl Iterator<Item = (&str, &str)> + '_ {
        let pairs = match self.value(name) {
            Some(Value::Table(pairs)) => Some(pairs.iter()),
            _ => None,
        };
        pairs.into_iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Whether a value may stand for `auto`.
pub(super) fn may_be_auto(kind: Kind) -> bool {
    matches!(kind, Kind::Number { auto: true, .. } | Kind::Bytes { auto: true, .. })
}
