//! The dependencies that pages name are those that their programs are compiled with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use hydratecache_guide::{CHAPTERS, blocks_in};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// The lines `name = …` of a manifest.
fn lines(manifest: &str) -> impl Iterator<Item = (&str, &str)> {
    manifest.lines().filter_map(|line| line.split_once(" = "))
}

/// What stands in quotes behind `name = `.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_once(&format!("{name} = \""))?.1.split_once('"').map(|(text, _)| text)
}

/// The version that a dependency asks for.
fn version(line: &str) -> &str {
    field(line, "version").unwrap_or(line.trim_matches('"'))
}

/// The names of the features that a dependency asks for.
fn features(line: &str) -> Vec<&str> {
    let list = line.split_once("features = [").and_then(|(_, rest)| rest.split_once(']'));
    list.map_or("", |(list, _)| list).split('"').skip(1).step_by(2).collect()
}

/// The pages with dependencies, and each of those.
fn dependencies() -> Vec<(String, String, String)> {
    let others = ["README.md", "docs/OBSERVABILITY.md"].map(|page| (page, read(page)));
    let others = others.iter().map(|(page, text)| (*page, text.as_str()));
    let of_page = |(page, text): (&str, &str)| {
        let blocks = blocks_in(text, "toml");
        let lines = blocks.iter().flat_map(|block| lines(block));
        lines.map(|(name, line)| (page.into(), name.into(), line.into())).collect::<Vec<_>>()
    };
    CHAPTERS.iter().copied().chain(others).flat_map(of_page).collect()
}

/// Whether the page's version is the workspace's, as far as the page says it.
fn is_same(ours: &str, theirs: &str) -> bool {
    !theirs.is_empty()
        && ours.split('.').zip(theirs.split('.')).all(|(ours, theirs)| ours == theirs)
}

/// Whether the page asks for what the workspace has: the same version, the repository for a crate of ours, which has no
/// release yet, and its features.
fn check(name: &str, line: &str, manifest: &BTreeMap<&str, &str>) -> Result<(), String> {
    let ours = manifest.get(name).ok_or("the workspace does not use it")?;
    let is_from_repository = field(line, "git") == Some(manifest["repository"].trim_matches('"'));
    let is_ours = field(ours, "path").is_some();
    let is_right = if is_ours { is_from_repository } else { is_same(version(ours), version(line)) };
    if !is_right {
        return Err(format!("the workspace has {ours}"));
    }
    let missing = features(ours).into_iter().find(|feature| !features(line).contains(feature));
    missing.map_or(Ok(()), |feature| Err(format!("the workspace has its feature {feature}")))
}

#[test]
fn every_dependency_on_a_page_is_what_the_workspace_has() {
    let manifest = read("Cargo.toml");
    let manifest: BTreeMap<_, _> = lines(&manifest).collect();
    let all = dependencies();
    for (page, name, line) in all {
        check(&name, &line, &manifest).unwrap_or_else(|why| panic!("{page}: {name}: {why}"));
    }
}

#[test]
fn the_readme_names_what_its_program_uses_and_the_oldest_rust() {
    let readme = read("README.md");
    let program = blocks_in(&readme, "rust,no_run").concat();
    let used =
        program.lines().filter_map(|line| line.strip_prefix("use ").or(line.strip_prefix("#[")));
    let used: BTreeSet<_> =
        used.filter_map(|line| Some(line.split_once("::")?.0.to_owned())).collect();
    let named = dependencies().into_iter().filter(|(page, ..)| page == "README.md");
    let named: BTreeSet<_> = named.map(|(_, name, _)| name.replace('-', "_")).collect();
    assert_eq!(named, used);
    let manifest = read("Cargo.toml");
    let oldest = field(&manifest, "rust-version").expect("the workspace says it");
    assert!(readme.contains(&format!("Rust {oldest} or later")), "not Rust {oldest}");
}
