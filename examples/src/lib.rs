//! The README's code, compiled and run as documentation tests of this crate.

#[doc = include_str!("../../README.md")]
#[derive(Debug)]
pub struct Readme;
