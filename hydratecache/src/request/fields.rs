//! What the fields of a request's body say, whatever its type.

use std::num::NonZeroU64;
use std::sync::Arc;

use minicbor::Decoder;

use super::{MAX_NAME_BYTES, MOST_PARTS};
use crate::message::ContentType;
use crate::{Key, Origin};

/// The fields of the types that are known here.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) number: Option<u64>,
    pub(super) origin: Option<Origin>,
    /// Fields 2 and 3.
    pub(super) numbers: [Option<NonZeroU64>; 2],
    pub(super) key: Option<Key>,
    pub(super) version: Option<u64>,
    pub(super) question: Option<NonZeroU64>,
    /// In milliseconds.
    pub(super) limit: Option<u64>,
    pub(super) is_applied: Option<bool>,
    pub(super) name: Option<Arc<str>>,
    pub(super) content_type: Option<ContentType>,
    pub(super) parts: Vec<u64>,
}

impl Fields {
    /// The fields of a well-formed map; others than these are skipped.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut d = Decoder::new(body);
        let mut fields = Self::default();
        for _ in 0..d.map().ok()?? {
            match d.u64().ok()? {
                0 => fields.number = Some(d.u64().ok()?),
                1 => fields.origin = Origin::from_u64(d.u64().ok()?),
                field @ 2..=3 => {
                    let number = NonZeroU64::new(d.u64().ok()?);
                    fields.numbers[usize::from(field == 3)] = number;
                }
                4 => fields.key = Some(Key::new(d.str().ok()?).ok()?),
                5 => fields.version = Some(d.u64().ok()?),
                6 => fields.question = NonZeroU64::new(d.u64().ok()?),
                7 => fields.limit = Some(d.u64().ok()?),
                8 => fields.is_applied = Some(d.bool().ok()?),
                9 => {
                    let name = d.str().ok()?;
                    fields.name = Some((name.len() <= MAX_NAME_BYTES).then_some(name)?.into());
                }
                10 => {
                    fields.content_type = Some(ContentType::new(d.str().ok()?).ok()?);
                }
                11 => {
                    for _ in 0..d.array().ok()??.min(MOST_PARTS as u64 + 1) {
                        fields.parts.push(d.u64().ok()?);
                    }
                    // More than that nobody asks for.
                    (fields.parts.len() <= MOST_PARTS).then_some(())?;
                }
                _ => d.skip().ok()?,
            }
        }
        Some(fields)
    }
}
