//! Profiles: what a kind of machine wants, as TOML. A profile inherits from another, says which machines it
//! is for, and gives values for the keys of [`KEYS`]. Owns the keys, the built-in profiles, which of them
//! fits, and where each resolved value comes from. Must never enable what the machine refuses: a profile
//! wishes, the probe decides.

mod built_in;
mod keys;
mod matching;
mod parse;
mod resolve;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;

pub use built_in::built_in;
pub use keys::{KEYS, Key, Kind, nearest};
pub use matching::{Match, Midr, choose};
pub(crate) use parse::kernel_version;
pub use resolve::{Origin, Resolved, Value, resolve};

/// Version of the form of a profile that this build reads.
pub const SCHEMA: i64 = 1;
/// Profiles one above the other.
pub const DEPTH_MAX: usize = 8;

/// How much stands behind the values of a profile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// From documents only.
    #[default]
    Unverified,
    /// Behaviour was tried on an emulated machine, never speed.
    Emulated,
    /// Measured on such a machine.
    Measured,
}

impl Status {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Status::Unverified => "unverified",
            Status::Emulated => "emulated",
            Status::Measured => "measured",
        }
    }
}

/// What stands behind a profile.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Evidence {
    pub status: Status,
    /// Documents, machines, dates.
    pub sources: Vec<String>,
}

/// One profile as it was written.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Profile {
    pub name: String,
    /// One line for people.
    pub about: String,
    pub inherits: Option<String>,
    /// Which machines it is for; `None` for one that is only inherited or named.
    pub matches: Option<Match>,
    pub values: BTreeMap<&'static str, Value>,
    pub evidence: Evidence,
    /// Settings of the machine's firmware that help; nobody can set them from here.
    pub firmware: Vec<String>,
}

impl Profile {
    /// Reads a profile. `origin` is its file, for errors.
    ///
    /// # Errors
    /// No TOML, an unknown key or section, a value out of its range, another schema.
    pub fn parse(text: &str, origin: &str) -> Result<Profile, ProfileError> {
        parse::parse(text, origin)
    }
}

/// Why a profile is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("{origin}: {why}")]
    Syntax { origin: String, why: String },
    #[error("{origin}: unknown key `{key}`{}", did_you_mean(.nearest))]
    UnknownKey { origin: String, key: String, nearest: Option<&'static str> },
    #[error("{origin}: `{key}` is `{value}`: {why}")]
    Value { origin: String, key: String, value: String, why: String },
    #[error("{origin}: schema is {found}, this build reads {SCHEMA}: use a build that knows it")]
    Schema { origin: String, found: String },
    #[error("{origin}: inherits `{name}`, which does not exist: `martlet profile list` shows all")]
    Parent { origin: String, name: String },
    #[error("{origin}: more than {DEPTH_MAX} profiles one above the other, or a circle")]
    Depth { origin: String },
    #[error("there is no profile `{name}`{}", did_you_mean_profile(.nearest))]
    Unknown { name: String, nearest: Option<String> },
}

fn did_you_mean(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(
        || ": `martlet profile show --explain` lists every key".to_owned(),
        |name| format!(": did you mean `{name}`?"),
    )
}

fn did_you_mean_profile(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(
        || ": `martlet profile list` shows all".to_owned(),
        |name| format!(": did you mean `{name}`?"),
    )
}
