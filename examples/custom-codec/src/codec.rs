//! Any type that `prost` knows, as the payload of a message.

use std::any::type_name;
use std::marker::PhantomData;

use bytes::Bytes;
use hydratecache::codec::Codec;
use hydratecache::{ContentType, Error, ErrorKind, Result};
use prost::Message;

/// Protocol Buffers. Publishers and subscribers of a topic use the same codec; another one's payload is
/// rejected by its media type before it is looked at.
#[derive(Debug, Clone)]
pub(crate) struct Protobuf<T> {
    content_type: ContentType,
    _type: PhantomData<fn() -> T>,
}

impl<T> Protobuf<T> {
    pub(crate) fn new() -> Result<Self> {
        let content_type = ContentType::new("application/x-protobuf")?;
        Ok(Self { content_type, _type: PhantomData })
    }
}

impl<T: Message + Default + 'static> Codec<T> for Protobuf<T> {
    fn encode(&self, value: &T) -> Result<Bytes> {
        Ok(value.encode_to_vec().into())
    }

    /// Whatever bytes these are: prost allocates no more than there are, and goes 100 levels deep at
    /// most. Its errors name fields, and never hold a part of the payload.
    fn decode(&self, payload: &Bytes) -> Result<T> {
        T::decode(payload.clone()).map_err(|error| {
            let what =
                format!("a payload is not a {}; is its publisher's the same?", type_name::<T>());
            Error::new(ErrorKind::Decode, what).with_source(error)
        })
    }

    fn content_type(&self) -> Option<ContentType> {
        Some(self.content_type.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }

    #[test]
    fn what_is_encoded_is_decoded_and_what_is_cut_off_is_an_error() {
        let codec = Protobuf::<Named>::new().expect("a legal media type");
        let ada = Named { name: "Ada".to_owned() };
        let payload = codec.encode(&ada).expect("encodes");
        assert_eq!(codec.decode(&payload).expect("decodes"), ada);
        for length in 1..payload.len() {
            let error = codec.decode(&payload.slice(..length)).expect_err("it is cut off");
            assert_eq!(error.kind(), ErrorKind::Decode);
            assert!(!error.to_string().contains("Ad"), "{error}");
        }
    }
}
