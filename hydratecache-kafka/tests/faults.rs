//! What users see when Kafka or the link to it misbehaves: what only Kafka does.

mod support;
#[path = "faults/topics.rs"]
mod topics;
