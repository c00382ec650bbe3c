//! The JSON form, which SQL can write.

use std::borrow::Cow;

use bytes::Bytes;
use hydratecache::fanout::Arrival;
use hydratecache::wire::{Rejection, RejectionReason};
use hydratecache::{ContentType, Key, Message, Topic, Ttl, Version};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::check_topic;

/// What the form begins with, so that the JSON of others is told apart from it.
const BEGINNING: &str = "{\"hydratecache\":";

/// The members as they stand there: one that is broken does not hide the key.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow)]
    hydratecache: &'a RawValue,
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    ttl: Option<&'a RawValue>,
    #[serde(borrow)]
    version: Option<&'a RawValue>,
    #[serde(borrow)]
    xid: Option<&'a RawValue>,
    #[serde(borrow)]
    topic: Option<&'a RawValue>,
}

/// Reads `text`, which the payload goes on to share.
pub(super) fn read(text: &Bytes, topic: &Topic) -> Arrival {
    let broken = |reason| Rejection::new(reason);
    let form = std::str::from_utf8(text).map_err(|_| broken(RejectionReason::NotAnEnvelope))?;
    if !form.starts_with(BEGINNING) {
        return Err(broken(RejectionReason::NotAnEnvelope));
    }
    let members: Members<'_> = serde_json::from_str(form).map_err(|error| {
        broken(match error.classify() {
            serde_json::error::Category::Eof => RejectionReason::Truncated,
            _ => RejectionReason::Malformed("JSON of another form than the specification says"),
        })
    })?;
    match value::<u64>("hydratecache", Some(members.hydratecache)) {
        Ok(Some(1)) => {}
        Ok(Some(version)) => return Err(broken(RejectionReason::UnknownWireVersion(version))),
        Ok(None) | Err(_) => return Err(broken(RejectionReason::InvalidField("hydratecache"))),
    }
    let key = members.key();
    let named = key.as_ref().ok().cloned().flatten();
    members.message(key, text, topic).map_err(|reason| Rejection::new(reason).with_key(named))
}

impl Members<'_> {
    fn key(&self) -> Result<Option<Key>, RejectionReason> {
        let key = value::<Cow<'_, str>>("key", self.key)?;
        let checked = key.map(Key::new).transpose();
        checked.map_err(|_| RejectionReason::InvalidField("key"))
    }

    fn message(
        &self,
        key: Result<Option<Key>, RejectionReason>,
        text: &Bytes,
        topic: &Topic,
    ) -> Result<Message, RejectionReason> {
        let mut message = self.bare(key?.as_ref(), text)?;
        if let Some(version) = value::<u64>("version", self.version)? {
            message = message.with_version(Version::caller(version));
        }
        if let Some(number) = value::<u64>("xid", self.xid)? {
            message = message.with_transaction(number);
        }
        let named = value::<Cow<'_, str>>("topic", self.topic)?.map(Topic::new).transpose();
        let named = named.map_err(|_| RejectionReason::InvalidField("topic"))?;
        check_topic(&message, named.as_ref(), topic)
            .map_err(|rejection| rejection.reason().clone())?;
        Ok(message)
    }

    /// The message's kind with what belongs to it, and nothing else.
    fn bare(&self, key: Option<&Key>, text: &Bytes) -> Result<Message, RejectionReason> {
        let kind = value::<Cow<'_, str>>("kind", self.kind)?;
        let kind = kind.ok_or(RejectionReason::MissingField("kind"))?;
        let needed = key.cloned().ok_or(RejectionReason::MissingField("key"));
        let ttl = value::<(u64, u64)>("ttl", self.ttl)?;
        let ttl = ttl.map(|(start, duration)| Ttl::from_micros(start, duration)).transpose();
        let ttl = ttl.map_err(|_| RejectionReason::InvalidField("ttl"))?;
        let message = match &*kind {
            "put" => {
                let value = self.value.ok_or(RejectionReason::MissingField("value"))?;
                let payload = text.slice_ref(value.get().as_bytes());
                let put = Message::put(needed?, payload).with_content_type(ContentType::JSON);
                return Ok(match ttl {
                    Some(ttl) => put.with_ttl(ttl),
                    None => put,
                });
            }
            "remove" => Message::remove(needed?),
            "invalidate" => Message::invalidate(needed?),
            "clear" if key.is_some() => return Err(RejectionReason::InvalidField("key")),
            "clear" => Message::clear(),
            "touch" => {
                let ttl = ttl.ok_or(RejectionReason::MissingField("ttl"))?;
                return Ok(Message::touch(needed?, ttl));
            }
            _ => return Err(RejectionReason::InvalidField("kind")),
        };
        match (self.value, ttl) {
            (Some(_), _) => Err(RejectionReason::InvalidField("value")),
            (None, Some(_)) => Err(RejectionReason::InvalidField("ttl")),
            (None, None) => Ok(message),
        }
    }
}

fn value<'a, T: Deserialize<'a>>(
    name: &'static str,
    member: Option<&'a RawValue>,
) -> Result<Option<T>, RejectionReason> {
    let value = member.map(|member| serde_json::from_str(member.get())).transpose();
    value.map_err(|_| RejectionReason::InvalidField(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydratecache::Kind;

    fn read(text: &str) -> Arrival {
        let topic = Topic::new("users").expect("legal");
        super::read(&Bytes::copy_from_slice(text.as_bytes()), &topic)
    }

    #[test]
    fn every_kind_is_read_with_all_that_belongs_to_it() {
        let put = read(
            r#"{"hydratecache":1,"xid":745,"version":17,"key":"a\"b","later":[{}],"ttl":[5,7],"kind":"put","value":{"a": [1]}}"#,
        )
        .expect("reads");
        assert_eq!(put.payload().as_ref(), br#"{"a": [1]}"#);
        assert_eq!(put.key().map(Key::as_str), Some("a\"b"));
        assert_eq!((put.version(), put.transaction()), (Some(Version::caller(17)), Some(745)));
        assert_eq!(put.ttl().map(Ttl::to_micros), Some((5, 7)));
        let kinds = ["remove", "invalidate", "touch"].map(|kind| {
            let ttl = if kind == "touch" { r#","ttl":[5,7]"# } else { "" };
            let text = format!(r#"{{"hydratecache":1,"kind":"{kind}","key":"a"{ttl}}}"#);
            let message = read(&text).expect(kind);
            (message.kind(), message.is_invalidation())
        });
        assert_eq!(kinds, [(Kind::Remove, false), (Kind::Remove, true), (Kind::Touch, false)]);
        let clear = read(r#"{"hydratecache":1,"kind":"clear"}"#).expect("reads");
        assert_eq!(clear.kind(), Kind::Clear);
    }

    #[test]
    fn what_is_broken_is_rejected_and_names_the_key_if_that_is_readable() {
        for (text, reason, names_key) in [
            (r#"{"key":"k"}"#, "not an envelope", false),
            (r#"{"hydratecache":2,"kind":"put"}"#, "wire version 2", false),
            (r#"{"hydratecache":"1","kind":"put"}"#, "hydratecache is not legal", false),
            (r#"{"hydratecache":1,"kind":"put","key":"k""#, "end early", false),
            (r#"{"hydratecache":1,"kind":"put","key":"k"}{"#, "JSON of another form", false),
            (r#"{"hydratecache":1,"key":"k"}"#, "no kind", true),
            (r#"{"hydratecache":1,"kind":"merge","key":"k"}"#, "kind is not legal", true),
            (r#"{"hydratecache":1,"kind":"put","key":"k"}"#, "no value", true),
            (r#"{"hydratecache":1,"kind":"put","key":"","value":1}"#, "key is not legal", false),
            (r#"{"hydratecache":1,"kind":"put","value":1}"#, "no key", false),
            (r#"{"hydratecache":1,"kind":"remove","key":"k","value":1}"#, "value is not", true),
            (r#"{"hydratecache":1,"kind":"remove","key":"k","ttl":[1,1]}"#, "ttl is not", true),
            (r#"{"hydratecache":1,"kind":"clear","key":"k"}"#, "key is not legal", true),
            (r#"{"hydratecache":1,"kind":"touch","key":"k"}"#, "no ttl", true),
            (r#"{"hydratecache":1,"kind":"remove","key":"k","version":-1}"#, "version is", true),
            (r#"{"hydratecache":1,"kind":"remove","key":"k","xid":1.5}"#, "xid is not", true),
            (r#"{"hydratecache":1,"kind":"remove","key":"k","topic":"t"}"#, "another topic", true),
        ] {
            let rejection = read(text).expect_err(text);
            assert!(rejection.to_string().contains(reason), "{text}: {rejection}");
            assert_eq!(rejection.key().is_some(), names_key, "{text}");
        }
    }

    #[test]
    fn a_deep_value_costs_no_stack() {
        let deep = format!(
            r#"{{"hydratecache":1,"kind":"put","key":"k","value":{}{}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert_eq!(read(&deep).expect("reads").payload().len(), 200_000);
    }
}
