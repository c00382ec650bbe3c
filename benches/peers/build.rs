//! Tells the program which compiler built it.

use std::process::Command;

fn main() {
    let rustc = std::env::var_os("RUSTC").expect("cargo names the compiler");
    let output = Command::new(rustc).arg("--version").output().expect("the compiler runs");
    let version = String::from_utf8(output.stdout).expect("the version is text");
    println!("cargo::rustc-env=BUILT_BY={}", version.trim());
    println!("cargo::rerun-if-changed=build.rs");
}
