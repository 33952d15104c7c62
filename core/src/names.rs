//! Names and their validation: `persistent://tenant/namespace/topic`. Must never accept what a file name, a
//! metric label or another protocol could not carry.

use std::fmt;
use std::str::FromStr;

use crate::error::{ErrorCode, Refusal};
use crate::limits::NAME_BYTES_MAX;

/// A full topic name. The short form `orders` means `persistent://public/default/orders`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicName {
    tenant: String,
    namespace: String,
    topic: String,
}

impl TopicName {
    /// # Errors
    /// [`ErrorCode::InvalidName`] for an empty part, a part that is too long, or a forbidden character.
    pub fn new(tenant: &str, namespace: &str, topic: &str) -> Result<TopicName, Refusal> {
        check_part("tenant", tenant)?;
        check_part("namespace", namespace)?;
        check_part("topic", topic)?;
        Ok(TopicName { tenant: tenant.into(), namespace: namespace.into(), topic: topic.into() })
    }

    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }
}

/// A part of a name: 1 to 255 bytes of letters, digits, `.`, `_`, `-`, `=`, `:` and `%`; not `.` or `..`.
///
/// # Errors
/// [`ErrorCode::InvalidName`], naming the part and the rule.
pub fn check_part(what: &str, part: &str) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::new(ErrorCode::InvalidName, why));
    if part.is_empty() {
        return refuse(format!("{what} name is empty"));
    }
    if part.len() > NAME_BYTES_MAX {
        return refuse(format!("{what} name has {} bytes, at most {NAME_BYTES_MAX} are allowed", part.len()));
    }
    if part == "." || part == ".." {
        return refuse(format!("{what} name must not be `{part}`"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-=:%".contains(c);
    match part.chars().find(|&c| !allowed(c)) {
        None => Ok(()),
        Some(c) => refuse(format!(
            "{what} name `{}` has {c:?}: use letters, digits and . _ - = : %",
            part.escape_debug()
        )),
    }
}

impl FromStr for TopicName {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_prefix("persistent://").unwrap_or(text);
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            [topic] => TopicName::new("public", "default", topic),
            [tenant, namespace, topic] => TopicName::new(tenant, namespace, topic),
            _ => Err(Refusal::new(
                ErrorCode::InvalidName,
                format!(
                    "`{}` is not a topic: use NAME or persistent://TENANT/NAMESPACE/NAME",
                    text.escape_debug()
                ),
            )),
        }
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "persistent://{}/{}/{}", self.tenant, self.namespace, self.topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_full_forms_name_the_same_topic() {
        let short: TopicName = "orders".parse().unwrap();
        let full: TopicName = "persistent://public/default/orders".parse().unwrap();
        assert_eq!(short, full);
        assert_eq!(short.to_string(), "persistent://public/default/orders");
        assert_eq!("a/b/c".parse::<TopicName>().unwrap().tenant(), "a");
    }

    #[test]
    fn bad_names_are_refused_with_the_rule() {
        for bad in ["", "a/b", "persistent://a//c", "..", "a b", "x\n", "é", &"x".repeat(256)] {
            let refusal = bad.parse::<TopicName>().unwrap_err();
            assert_eq!(refusal.code, ErrorCode::InvalidName, "{bad:?}");
        }
    }
}
