//! The configuration model: one table of keys, and what a file, the environment and flags say about them.
//!
//! Owns names, types, ranges, defaults and origins. Must never read a file or the environment: texts come in
//! as values, so that the same bytes always give the same configuration. A key that is not in [`KEYS`] is an
//! error.
//!
//! Later sources win: default, file, environment (`MARTLET_` and the key in capitals with `_` for `.`),
//! flags.

mod human;
mod keys;
mod load;
mod value;

pub use human::{parse_bytes, parse_duration, show_bytes, show_duration};
pub use keys::{Change, KEYS, Key, Kind, find, nearest};
pub use load::{Origin, Settings};
pub use value::Value;

/// Why a configuration is refused. Every text names the place and the remedy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{origin}: unknown key `{key}`{}", did_you_mean(.nearest))]
    UnknownKey { origin: String, key: String, nearest: Option<&'static str> },
    #[error("{origin}: `{key}` is `{value}`: {why}")]
    Value { origin: String, key: String, value: String, why: String },
    #[error("{file}:{line}: {why}")]
    Syntax { file: String, line: usize, why: String },
    #[error("`--set {text}`: use --set KEY=VALUE")]
    Flag { text: String },
    #[error("`{key}` and `{other}` do not fit together: {why}")]
    Together { key: &'static str, other: &'static str, why: String },
}

fn did_you_mean(nearest: &Option<&'static str>) -> String {
    match nearest {
        Some(name) => format!(": did you mean `{name}`?"),
        None => ": `martlet config show` lists every key".into(),
    }
}
