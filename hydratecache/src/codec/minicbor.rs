//! Integer-keyed CBOR, as structs of other languages and of `minicbor`'s derive are written.

use bytes::Bytes;
use minicbor::{Decode, Encode};

use super::{Codec, decode_error, encode_error};
use crate::Result;
use crate::message::ContentType;
use crate::wire::check_well_formed;

/// CBOR through `minicbor`, whose derive writes integer keys.
///
/// ```
/// use hydratecache::codec::{Codec, Minicbor};
///
/// #[derive(minicbor::Encode, minicbor::Decode, PartialEq, Debug)]
/// struct User {
///     #[n(0)] name: String,
///     #[n(1)] visits: u32,
/// }
///
/// let user = User { name: "Ada".into(), visits: 3 };
/// let payload = Minicbor.encode(&user)?;
/// let decoded: User = Minicbor.decode(&payload)?;
/// assert_eq!(decoded, user);
/// # Ok::<(), hydratecache::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Minicbor;

impl<T> Codec<T> for Minicbor
where
    T: Encode<()> + for<'b> Decode<'b, ()> + 'static,
{
    fn encode(&self, value: &T) -> Result<Bytes> {
        let payload = minicbor::to_vec(value);
        Ok(payload.map_err(|error| encode_error::<T>().with_source(error.to_string()))?.into())
    }

    fn decode(&self, payload: &Bytes) -> Result<T> {
        check_well_formed(payload).map_err(|why| decode_error::<T>(&why.to_string()))?;
        minicbor::decode(payload).map_err(|error| {
            let place = error.position().map(|at| format!("at byte {at}")).unwrap_or_default();
            decode_error::<T>(&format!("a value of another type than expected {place}"))
        })
    }

    fn content_type(&self) -> Option<ContentType> {
        None
    }
}
