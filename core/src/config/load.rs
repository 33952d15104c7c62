//! Settings: for every key its value and where the value came from. Owns the order of sources and the checks
//! across keys; must never keep a value without an origin.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Key, Kind, find, nearest};
use super::{ConfigError, Value};

/// Environment variables with our prefix that are not keys: the command line's, and those Kubernetes sets for
/// a service that is called `martlet`.
const OTHER_VARIABLES: &[&str] = &["MARTLET_SERVER", "MARTLET_KAFKA", "MARTLET_CONFIG", "MARTLET_PORT"];
const OTHER_VARIABLE_PREFIXES: &[&str] = &["MARTLET_SERVICE_", "MARTLET_PORT_", "MARTLET_TEST_"];

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    Default,
    File {
        file: String,
        line: usize,
    },
    /// The variable's name.
    Environment(String),
    /// The flag as given, without its value.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { file, line } => write!(f, "{file}:{line}"),
            Origin::Environment(variable) => f.write_str(variable),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Every key with its value and origin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    values: BTreeMap<&'static str, (Value, Origin)>,
}

impl Default for Settings {
    fn default() -> Settings {
        let default = |key: &'static Key| {
            let value = Value::parse(&key.kind, key.default);
            assert!(value.is_ok(), "the default of {} parses", key.name);
            (key.name, (value.unwrap_or(Value::Auto), Origin::Default))
        };
        Settings { values: KEYS.iter().map(default).collect() }
    }
}

impl Settings {
    /// Takes what a TOML `text` says. `file` is its name, for origins and errors.
    ///
    /// # Errors
    /// Bad syntax, an unknown key, a value of the wrong type or out of range: the first in the file's order.
    pub fn apply_toml(&mut self, file: &str, text: &str) -> Result<(), ConfigError> {
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            file: file.into(),
            line: error.span().map_or(1, |span| line_of(text, span.start)),
            why: error.message().trim_end_matches('.').to_lowercase(),
        })?;
        let mut found = Vec::new();
        flatten("", table.get_ref(), &mut found)?;
        found.sort_by_key(|(_, start, _)| *start);
        for (name, start, text_value) in found {
            let origin = Origin::File { file: file.into(), line: line_of(text, start) };
            self.set(&name, &text_value, origin)?;
        }
        Ok(())
    }

    /// Takes what the environment says. Variables without the prefix `MARTLET_` are not looked at.
    ///
    /// # Errors
    /// An unknown variable with the prefix, a value of the wrong type or out of range.
    pub fn apply_environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        for (variable, value) in variables {
            let Some(rest) = variable.strip_prefix("MARTLET_") else { continue };
            let other = OTHER_VARIABLES.contains(&variable.as_str())
                || OTHER_VARIABLE_PREFIXES.iter().any(|prefix| variable.starts_with(prefix));
            if other {
                continue;
            }
            let name = KEYS.iter().find(|key| key.variable() == variable).map(|key| key.name);
            let Some(name) = name else {
                let guess = nearest(&rest.to_lowercase().replacen('_', ".", 1));
                return Err(ConfigError::UnknownKey {
                    origin: "environment".into(),
                    key: variable,
                    nearest: guess,
                });
            };
            self.set(name, &value, Origin::Environment(variable))?;
        }
        Ok(())
    }

    /// Takes one `KEY=VALUE` of `--set`.
    ///
    /// # Errors
    /// No `=`, an unknown key, a value of the wrong type or out of range.
    pub fn apply_assignment(&mut self, text: &str) -> Result<(), ConfigError> {
        let (name, value) = text.split_once('=').ok_or_else(|| ConfigError::Flag { text: text.into() })?;
        self.set(name.trim(), value, Origin::Flag(format!("--set {}", name.trim())))
    }

    /// Sets one key from its text.
    ///
    /// # Errors
    /// An unknown key, a value of the wrong type or out of range.
    pub fn set(&mut self, name: &str, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let Some(key) = find(name) else {
            let nearest = nearest(name);
            return Err(ConfigError::UnknownKey { origin: origin.to_string(), key: name.into(), nearest });
        };
        let refuse = |why: String| ConfigError::Value {
            origin: origin.to_string(),
            key: name.into(),
            value: text.trim().into(),
            why,
        };
        let value = Value::parse(&key.kind, text).map_err(refuse)?;
        if let (Kind::Bytes { multiple_of, .. }, Value::Bytes(bytes)) = (&key.kind, &value)
            && !bytes.is_multiple_of(*multiple_of)
        {
            return Err(refuse(format!("use a multiple of {}", super::show_bytes(*multiple_of))));
        }
        self.values.insert(key.name, (value, origin));
        Ok(())
    }

    /// Checks that values fit together. Call it once after the last source.
    ///
    /// # Errors
    /// The first pair that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let together = |key, other, why: &str| Err(ConfigError::Together { key, other, why: why.into() });
        if self.bytes("wal.flush_bytes_max") > self.bytes("wal.file_bytes") / 2 {
            let why = "a flush must fit twice into a file of the ring: raise wal.file_bytes";
            return together("wal.flush_bytes_max", "wal.file_bytes", why);
        }
        if self.bytes("memory.tail_cache_bytes") > self.bytes("memory.budget_bytes") / 2 {
            let why = "the tail cache may take half of the budget at most: lower it or raise the budget";
            return together("memory.tail_cache_bytes", "memory.budget_bytes", why);
        }
        let ring = self.bytes("wal.file_bytes").saturating_mul(self.number("wal.files").unwrap_or(0));
        if self.bytes("topic.batch_bytes_max").saturating_mul(8) > ring {
            let why = "a batch must fit eight times into the ring: raise wal.file_bytes or wal.files";
            return together("topic.batch_bytes_max", "wal.file_bytes", why);
        }
        if self.bytes("topic.batch_bytes_max") >= self.bytes("wal.file_bytes") {
            let why = "a batch must fit into one file of the ring: raise wal.file_bytes";
            return together("topic.batch_bytes_max", "wal.file_bytes", why);
        }
        if self.duration("kafka.group_session_min") > self.duration("kafka.group_session_max") {
            let why = "the shortest session is longer than the longest: lower it";
            return together("kafka.group_session_min", "kafka.group_session_max", why);
        }
        Ok(())
    }

    /// Every key in the table's order, with its value and origin.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Key, &Value, &Origin)> {
        KEYS.iter().filter_map(|key| self.values.get(key.name).map(|(value, origin)| (key, value, origin)))
    }

    /// The value of a key of the table.
    ///
    /// # Panics
    /// If `name` is not in [`KEYS`]: a defect of the caller.
    #[must_use]
    pub fn value(&self, name: &str) -> &Value {
        &self.values[name].0
    }

    /// A size; [`u64::MAX`] if it is unlimited.
    #[must_use]
    pub fn bytes(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Bytes(bytes) => *bytes,
            Value::Unlimited => u64::MAX,
            other => unreachable!("{name} is a size, not {other:?}"),
        }
    }

    /// A number; `None` if it is `auto`.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            Value::Number(number) => Some(*number),
            Value::Auto => None,
            other => unreachable!("{name} is a number, not {other:?}"),
        }
    }

    /// A duration; `None` if it is unlimited.
    #[must_use]
    pub fn duration(&self, name: &str) -> Option<Duration> {
        match self.value(name) {
            Value::Duration(duration) => Some(*duration),
            Value::Unlimited => None,
            other => unreachable!("{name} is a duration, not {other:?}"),
        }
    }

    /// A yes or no.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        match self.value(name) {
            Value::Flag(flag) => *flag,
            other => unreachable!("{name} is a flag, not {other:?}"),
        }
    }

    /// A text or a choice.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        match self.value(name) {
            Value::Text(text) => text,
            Value::Choice(choice) => choice,
            other => unreachable!("{name} is a text, not {other:?}"),
        }
    }

    /// A list of addresses, at least one.
    #[must_use]
    pub fn addresses(&self, name: &str) -> &[SocketAddr] {
        match self.value(name) {
            Value::Addresses(addresses) => addresses,
            other => unreachable!("{name} is a list of addresses, not {other:?}"),
        }
    }
}

/// Collects (dotted name, byte of the key, text of the value).
fn flatten(
    prefix: &str,
    table: &DeTable<'_>,
    found: &mut Vec<(String, usize, String)>,
) -> Result<(), ConfigError> {
    for (key, value) in table {
        let name =
            if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        match value.get_ref() {
            DeValue::Table(inner) if find(&name).is_none() => flatten(&name, inner, found)?,
            other => found.push((name, key.span().start, text_of(other))),
        }
    }
    Ok(())
}

fn text_of(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string().replace('_', ""),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => {
            items.iter().map(|item| text_of(item.get_ref())).collect::<Vec<_>>().join(",")
        }
        DeValue::Table(_) => "{...}".into(),
    }
}

fn line_of(text: &str, byte: usize) -> usize {
    1 + text.as_bytes().iter().take(byte).filter(|&&b| b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_sources_win_and_origins_tell() {
        let mut settings = Settings::default();
        assert_eq!(settings.bytes("wal.file_bytes"), 64 << 20);
        let text = "data_dir = \"/a\"\n\n[wal]\nfile_bytes = \"32MiB\"\nfiles = 8\n\
                    [http]\nlisten = [\"127.0.0.1:1\", \"[::1]:1\"]\n";
        settings.apply_toml("m.toml", text).unwrap();
        let environment = [("MARTLET_WAL_FILES", "9"), ("PATH", "x"), ("MARTLET_SERVICE_HOST", "k8s")];
        let owned = environment.map(|(name, value)| (name.to_string(), value.to_string()));
        settings.apply_environment(owned).unwrap();
        settings.apply_assignment("node.shards=3").unwrap();
        settings.check().unwrap();
        let origin = |name: &str| settings.iter().find(|(key, ..)| key.name == name).unwrap().2.to_string();
        assert_eq!(settings.text("data_dir"), "/a");
        assert_eq!(origin("data_dir"), "m.toml:1");
        assert_eq!(settings.bytes("wal.file_bytes"), 32 << 20);
        assert_eq!(origin("wal.file_bytes"), "m.toml:4");
        assert_eq!(settings.number("wal.files"), Some(9));
        assert_eq!(origin("wal.files"), "MARTLET_WAL_FILES");
        assert_eq!(settings.number("node.shards"), Some(3));
        assert_eq!(origin("node.shards"), "--set node.shards");
        assert_eq!(settings.addresses("http.listen").len(), 2);
        assert_eq!(origin("log.level"), "default");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_name() {
        let mut settings = Settings::default();
        let error = settings.apply_toml("m.toml", "[wal]\nfile_byte = 1\n").unwrap_err().to_string();
        assert_eq!(error, "m.toml:2: unknown key `wal.file_byte`: did you mean `wal.file_bytes`?");
        let error = settings.apply_assignment("node.shard=1").unwrap_err().to_string();
        assert!(error.contains("did you mean `node.shards`?"), "{error}");
        let variables = [("MARTLET_WAL_FILEZ".to_string(), "9".to_string())];
        let error = settings.apply_environment(variables).unwrap_err().to_string();
        assert!(error.contains("MARTLET_WAL_FILEZ") && error.contains("`wal.files`"), "{error}");
        let error = settings.apply_assignment("zookeeper.connect=1").unwrap_err().to_string();
        assert!(error.contains("config show"), "{error}");
    }

    #[test]
    fn bad_values_are_refused_with_place_and_range() {
        for (assignment, part) in [
            ("wal.files=3", "4 to 1024"),
            ("wal.file_bytes=65MB", "multiple of 4KiB"),
            ("wal.file_bytes=1kB", "1MiB to 4GiB"),
            ("native.listen=nowhere", "ADDRESS:PORT"),
            ("topic.acks=maybe", "none, memory, replicated, durable"),
            ("topic.retention_time=1", "duration"),
            ("topic.auto_create=perhaps", "true or false"),
            ("data_dir=", "empty"),
            ("node.shards=257", "auto"),
        ] {
            let error = Settings::default().apply_assignment(assignment).unwrap_err().to_string();
            let key = assignment.split_once('=').unwrap().0;
            assert!(error.contains(part) && error.starts_with(&format!("--set {key}: ")), "{error}");
        }
        assert!(Settings::default().apply_assignment("wal.files").is_err());
        let error = Settings::default().apply_toml("m.toml", "a = 1\nb = = 2\n").unwrap_err().to_string();
        assert!(error.starts_with("m.toml:2: "), "{error}");
        let error = Settings::default().apply_toml("m.toml", "wal = 3\n").unwrap_err().to_string();
        assert!(error.starts_with("m.toml:1: unknown key `wal`"), "{error}");
    }

    #[test]
    fn values_that_do_not_fit_together_are_refused() {
        for assignments in [
            &["wal.flush_bytes_max=4MiB", "wal.file_bytes=4MiB"][..],
            &["memory.tail_cache_bytes=400MiB"],
            &["wal.file_bytes=4MiB", "wal.files=4"],
        ] {
            let mut settings = Settings::default();
            for assignment in assignments {
                settings.apply_assignment(assignment).unwrap();
            }
            assert!(matches!(settings.check(), Err(ConfigError::Together { .. })), "{assignments:?}");
        }
    }
}
