#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod broker;
pub mod chaos;
pub mod conformance;
pub mod faults;
pub mod kafka;
pub mod proxy;
