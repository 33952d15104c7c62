//! A record as one JSON object. Owns the names of its fields, which programs read.

use martlet_client::ConsumedRecord;
use serde_json::{Map, Value, json};

pub(super) fn as_json(record: &ConsumedRecord<'_>) -> Value {
    let mut value = Map::new();
    value.insert("partition".into(), json!(record.partition));
    value.insert("offset".into(), json!(record.offset));
    value.insert("timestamp".into(), json!(record.timestamp));
    insert_bytes(&mut value, "key", record.key);
    insert_bytes(&mut value, "value", record.value);
    let headers: Vec<Value> = record
        .headers()
        .map(|header| {
            let mut entry = Map::new();
            entry.insert("name".into(), json!(header.name));
            insert_bytes(&mut entry, "value", header.value);
            Value::Object(entry)
        })
        .collect();
    value.insert("headers".into(), Value::Array(headers));
    Value::Object(value)
}

/// As text if it is UTF-8, else under `NAME_base64`.
fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => object.insert(name.into(), Value::Null),
        Some((_, Ok(text))) => object.insert(name.into(), json!(text)),
        Some((bytes, Err(_))) => object.insert(format!("{name}_base64"), json!(base64(bytes))),
    };
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            let index = (bits >> (18 - 6 * position)) & 63;
            text.push(if position <= group.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_known_vectors() {
        // RFC 4648, section 10.
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_told_as_such() {
        let mut object = Map::new();
        insert_bytes(&mut object, "key", None);
        insert_bytes(&mut object, "value", Some(&[0xff]));
        assert_eq!(Value::Object(object), json!({ "key": null, "value_base64": "/w==" }));
    }
}
