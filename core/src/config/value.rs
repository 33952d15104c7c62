//! A value of a key, typed and in range. Owns reading and showing; must never hold one that its key forbids.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::human::{parse_bytes, parse_duration, show_bytes, show_duration};
use super::keys::Kind;

/// A value as its key's [`Kind`] says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// The broker chooses; the key's text says how.
    Auto,
    /// No bound, for sizes and durations whose key allows it.
    Unlimited,
    Flag(bool),
    Number(u64),
    Bytes(u64),
    Duration(Duration),
    Text(String),
    /// One of the key's choices.
    Choice(&'static str),
    Addresses(Vec<SocketAddr>),
}

impl Value {
    /// Reads `text` as `kind`.
    ///
    /// # Errors
    /// A sentence with what is allowed.
    pub fn parse(kind: &Kind, text: &str) -> Result<Value, String> {
        let text = text.trim();
        match kind {
            Kind::Flag => match text {
                "true" | "on" | "yes" => Ok(Value::Flag(true)),
                "false" | "off" | "no" => Ok(Value::Flag(false)),
                _ => Err("use true or false".into()),
            },
            Kind::Number { min, max, auto } => {
                if *auto && text == "auto" {
                    return Ok(Value::Auto);
                }
                let auto = if *auto { ", or auto" } else { "" };
                let number = text.parse().ok().filter(|number| (min..=max).contains(&number));
                number.map(Value::Number).ok_or_else(|| format!("use a number from {min} to {max}{auto}"))
            }
            Kind::Bytes { min, max, unlimited, .. } => {
                if *unlimited && text == "unlimited" {
                    return Ok(Value::Unlimited);
                }
                let bytes = parse_bytes(text)?;
                let unlimited = if *unlimited { ", or unlimited" } else { "" };
                let range = format!("use {} to {}{unlimited}", show_bytes(*min), show_bytes(*max));
                if (*min..=*max).contains(&bytes) { Ok(Value::Bytes(bytes)) } else { Err(range) }
            }
            Kind::Duration { min, max, unlimited } => {
                if *unlimited && text == "unlimited" {
                    return Ok(Value::Unlimited);
                }
                let duration = parse_duration(text)?;
                let unlimited = if *unlimited { ", or unlimited" } else { "" };
                let range = format!("use {} to {}{unlimited}", show_duration(*min), show_duration(*max));
                if (*min..=*max).contains(&duration) { Ok(Value::Duration(duration)) } else { Err(range) }
            }
            Kind::Text { empty } => {
                if text.is_empty() && !empty {
                    return Err("it must not be empty".into());
                }
                Ok(Value::Text(text.into()))
            }
            Kind::Choice(choices) => {
                let chosen = choices.iter().find(|choice| **choice == text);
                chosen.map(|choice| Value::Choice(choice)).ok_or_else(|| {
                    match nearest_choice(text, choices) {
                        Some(near) => format!("did you mean `{near}`? use {}", choices.join(", ")),
                        None => format!("use {}", choices.join(", ")),
                    }
                })
            }
            Kind::Addresses => parse_addresses(text).map(Value::Addresses),
        }
    }
}

/// The choice that `text` is nearest to, if near enough to be meant.
fn nearest_choice(text: &str, choices: &[&'static str]) -> Option<&'static str> {
    let lower = text.to_lowercase();
    let scored = choices.iter().map(|choice| (strsim::damerau_levenshtein(&lower, choice), *choice));
    let (distance, best) = scored.min()?;
    (distance <= 1 + lower.chars().count() / 3).then_some(best)
}

fn parse_addresses(text: &str) -> Result<Vec<SocketAddr>, String> {
    let addresses: Result<Vec<SocketAddr>, String> = text
        .split(',')
        .map(|part| {
            let part = part.trim().replace("localhost:", "127.0.0.1:");
            part.parse().map_err(|_| {
                format!(
                    "`{part}` is not ADDRESS:PORT: write an IP address, as in 127.0.0.1:7650 or [::]:7650"
                )
            })
        })
        .collect();
    addresses
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Auto => f.write_str("auto"),
            Value::Unlimited => f.write_str("unlimited"),
            Value::Flag(flag) => write!(f, "{flag}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Bytes(bytes) => f.write_str(&show_bytes(*bytes)),
            Value::Duration(duration) => f.write_str(&show_duration(*duration)),
            Value::Text(text) => f.write_str(text),
            Value::Choice(choice) => f.write_str(choice),
            Value::Addresses(addresses) => {
                for (index, address) in addresses.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{address}")?;
                }
                Ok(())
            }
        }
    }
}
