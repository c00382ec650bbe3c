#![doc = include_str!("../README.md")]

mod channel_name;
mod error;
mod migration;
mod text;

pub use migration::{Attachment, Migration};
