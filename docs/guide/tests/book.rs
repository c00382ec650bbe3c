//! The guide holds together: every chapter is in its contents, every link leads somewhere, and every
//! block of code is of a kind that some test compiles or runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use hydratecache_guide::CHAPTERS;
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// Where links into the repository lead.
const REPOSITORY: &str = "https://github.com/hydratecache/hydratecache/blob/main/";
/// Where links to a crate's documentation lead.
const CRATES: &str = "https://docs.rs/";

/// What tests compile, run or compare: Rust as documentation tests, SQL in `tests/statements.rs`, dependencies in
/// `tests/dependencies.rs`, shell commands in `hydratecache-cli/tests/pages.rs`. Text is read by people only.
const LANGUAGES: [&str; 5] = ["rust", "sql", "toml", "sh", "text"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn parse(text: &str) -> impl Iterator<Item = Event<'_>> {
    Parser::new_ext(text, Options::ENABLE_TABLES)
}

fn links(text: &str) -> Vec<String> {
    let link = |event| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
            Some(dest_url.to_string())
        }
        _ => None,
    };
    parse(text).filter_map(link).collect()
}

/// The anchors of a page's headings, as mdBook and GitHub make them of headings without markup.
fn anchors(text: &str) -> BTreeSet<String> {
    let (mut anchors, mut heading) = (BTreeSet::new(), None::<String>);
    for event in parse(text) {
        match (event, &mut heading) {
            (Event::Start(Tag::Heading { .. }), _) => heading = Some(String::new()),
            (Event::Text(part) | Event::Code(part), Some(heading)) => heading.push_str(&part),
            (Event::End(TagEnd::Heading(_)), heading) => {
                let anchor = anchor(&heading.take().expect("it began"));
                assert!(anchors.insert(anchor.clone()), "two headings have the anchor {anchor}");
            }
            _ => {}
        }
    }
    anchors
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_chapter_is_in_the_contents_and_its_code_is_compiled() {
    let in_folder: BTreeSet<String> = fs::read_dir(folder())
        .expect("the folder of the chapters")
        .map(|entry| entry.expect("a file").file_name().into_string().expect("ASCII"))
        .filter(|name| name != "SUMMARY.md")
        .collect();
    let summary = fs::read_to_string(folder().join("SUMMARY.md")).expect("the contents");
    let in_contents = links(&summary);
    let compiled: Vec<&str> = CHAPTERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(in_contents, compiled, "`chapters!` in code/lib.rs has the order of the contents");
    assert_eq!(in_contents.into_iter().collect::<BTreeSet<_>>(), in_folder);
}

#[test]
fn every_link_leads_to_something_that_is_there() {
    let pages: BTreeMap<&str, BTreeSet<String>> =
        CHAPTERS.iter().map(|(name, text)| (*name, anchors(text))).collect();
    let mut broken = Vec::new();
    for (name, text) in CHAPTERS {
        for link in links(text) {
            if let Err(why) = follow(name, &link, &pages) {
                broken.push(format!("{name}: {link}: {why}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

fn follow(
    from: &str,
    link: &str,
    pages: &BTreeMap<&str, BTreeSet<String>>,
) -> Result<(), &'static str> {
    if let Some(name) = link.strip_prefix(CRATES) {
        let is_ours = repository().join(name).join("Cargo.toml").is_file();
        return is_ours.then_some(()).ok_or("no crate of this workspace");
    }
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, at)| (path, Some(at)));
    let anchors = if let Some(path) = path.strip_prefix(REPOSITORY) {
        let text = fs::read_to_string(repository().join(path)).map_err(|_| "no such file")?;
        if anchor.is_none() {
            return Ok(());
        }
        anchors(&text)
    } else if path.contains("://") {
        return Err("leads where no test can look");
    } else {
        let path = if path.is_empty() { from } else { path };
        pages.get(path).ok_or("no such chapter")?.clone()
    };
    let leads = anchor.is_none_or(|anchor| anchors.contains(anchor));
    leads.then_some(()).ok_or("no such heading")
}

#[test]
fn every_block_of_code_is_of_a_kind_that_is_tested() {
    for (name, text) in CHAPTERS {
        for event in parse(text) {
            let Event::Start(Tag::CodeBlock(kind)) = event else { continue };
            let CodeBlockKind::Fenced(language) = kind else {
                panic!("{name} has an indented block of code; fence it and name its language");
            };
            // `ignore`, `no_run` and the like would be a word more.
            assert!(LANGUAGES.contains(&&*language), "{name}: a block of {language:?}");
        }
    }
}

#[test]
fn every_chapter_begins_with_what_one_can_do_after_it() {
    for (name, text) in CHAPTERS {
        let mut lines = text.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("# ")), "{name}: no title");
        let first = lines.find(|line| !line.is_empty()).unwrap_or_default();
        assert!(first.starts_with("After this "), "{name} begins with {first:?}");
    }
}
