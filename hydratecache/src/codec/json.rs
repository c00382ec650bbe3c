//! JSON, for topics that other languages publish to.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, decode_error, encode_error, without_payload};
use crate::Result;
use crate::message::ContentType;

/// JSON through serde. Depth is limited to 128 levels by `serde_json`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json;

impl<T: Serialize + DeserializeOwned + 'static> Codec<T> for Json {
    fn encode(&self, value: &T) -> Result<Bytes> {
        let payload = serde_json::to_vec(value);
        Ok(payload.map_err(|error| encode_error::<T>().with_source(error))?.into())
    }

    fn decode(&self, payload: &Bytes) -> Result<T> {
        serde_json::from_slice(payload).map_err(|error| {
            let message = error.to_string();
            let place = format!("at line {} column {}", error.line(), error.column());
            decode_error::<T>(&format!("{} {place}", without_payload(strip_place(&message))))
        })
    }

    fn content_type(&self) -> Option<ContentType> {
        Some(ContentType::JSON)
    }
}

fn strip_place(message: &str) -> &str {
    message.split(" at line ").next().unwrap_or(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_errors_do_not_show_the_payload() {
        let payload = Codec::<String>::encode(&Json, &"secret-value".to_owned()).expect("encodes");
        assert_eq!(Codec::<String>::decode(&Json, &payload).expect("decodes"), "secret-value");
        let error = Codec::<u64>::decode(&Json, &payload).expect_err("another type");
        assert!(error.to_string().contains("at line 1") && !error.to_string().contains("secret"));
    }
}
