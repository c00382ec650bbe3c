//! Makes a function of the program in each README that needs a broker, so that a test runs it as its reader sees it,
//! but for the address.

use std::path::Path;
use std::{env, fs};

/// The module of the program, and the page that has it.
const PROGRAMS: [(&str, &str); 5] = [
    ("hydratecache", "../README.md"),
    ("redis", "../hydratecache-redis/README.md"),
    ("nats", "../hydratecache-nats/README.md"),
    ("postgres", "../hydratecache-postgres/README.md"),
    ("kafka", "../hydratecache-kafka/README.md"),
];

const MAIN: &str = "#[tokio::main]\nasync fn main()";

fn main() {
    let folder = env::var("OUT_DIR").expect("cargo names a folder");
    for (module, page) in PROGRAMS {
        println!("cargo::rerun-if-changed={page}");
        let text = fs::read_to_string(page).unwrap_or_else(|why| panic!("{page}: {why}"));
        let program = function(&text).unwrap_or_else(|why| panic!("{page}: {why}"));
        let file = Path::new(&folder).join(module).with_extension("rs");
        fs::write(&file, program).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
    }
}

/// The first program of a page, as a function of its broker's address.
fn function(page: &str) -> Result<String, String> {
    let (_, rest) = page.split_once("\n```rust").ok_or("there is no Rust")?;
    let (_, rest) = rest.split_once('\n').ok_or("the first Rust is empty")?;
    let (program, _) = rest.split_once("\n```\n").ok_or("the first Rust does not end")?;
    let (before, body) = program.split_once(MAIN).ok_or(format!("there is no {MAIN:?}"))?;
    let (result, body) = body.split_once("    let url = \"").ok_or("there is no `let url`")?;
    let (_, body) = body.split_once("\";\n").ok_or("the line of `let url` does not end")?;
    Ok(format!("{before}pub(crate) async fn run(url: &str){result}{body}\n"))
}
