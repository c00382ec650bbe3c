//! The commands in the project's pages, run as they stand there over a real Redis.
#![cfg(feature = "redis")]

mod support;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use hydratecache::cache::{Loaded, Replica, Source, SourceError, WarmStart};
use hydratecache::{Channel, Hydrated, Key, VersionDomain};
use hydratecache_redis::RedisTransport;
use serde::{Deserialize, Serialize};
use support::{Broker, Following, Kind, broker, command, within};

/// A command ends by limits of its own. The longest are those of `snapshot --against`, which looks twice for up to 30 s,
/// and 10 s lie between; a busy machine may add to that.
const LIMIT: Duration = Duration::from_secs(30 + 10 + 30 + 50);

/// What pages write for the user's own Redis.
const REDIS: &str = "redis://localhost:6379";

/// What the README's program keeps.
#[derive(Serialize, Deserialize)]
struct User {
    name: String,
    version: u64,
}

/// A line of a block of shell commands.
struct Line {
    /// The line and its page, for people.
    text: String,
    words: Vec<String>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn pages() -> Vec<PathBuf> {
    let chapters = fs::read_dir(repository().join("docs/guide/src")).expect("the guide");
    let mut pages: Vec<_> = chapters.map(|entry| entry.expect("a file").path()).collect();
    pages.extend(["README.md", "docs/CLI.md"].map(|page| repository().join(page)));
    pages.sort();
    pages
}

/// The lines of all blocks of shell commands.
fn lines() -> Vec<Line> {
    let mut lines = Vec::new();
    for page in pages() {
        let mut is_shell = false;
        for line in fs::read_to_string(&page).expect("text").lines() {
            match line.strip_prefix("```") {
                Some(language) => is_shell = language == "sh",
                None if is_shell => {
                    let text = format!("`{line}` in {}", page.display());
                    lines.push(Line { text, words: words(line) });
                }
                None => {}
            }
        }
    }
    lines.retain(|line| !line.words.is_empty());
    lines
}

/// The words of a command, without what a shell does with its output.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), None::<String>, false);
    for letter in line.chars() {
        match letter {
            '\'' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            ' ' if !is_quoted => words.extend(word.take()),
            '#' | '|' | '>' if !is_quoted && word.is_none() => break,
            _ => word.get_or_insert_default().push(letter),
        }
    }
    assert!(!is_quoted, "a quote is open: {line}");
    words.extend(word);
    words
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_every_page_does_what_it_says() {
    let redis = broker(Kind::Redis).await;
    let folder = tempfile::tempdir().expect("a folder");
    let users =
        "{\"key\": \"user:1\", \"value\": {\"name\": \"Ada\", \"version\": 12}, \"version\": 12}\n";
    fs::write(folder.path().join("users.jsonl"), users).expect("written");
    let replica = replica(&redis).await;
    let mut run = 0;
    for line in lines() {
        let [program, arguments @ ..] = line.words.as_slice() else { continue };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match program.as_str() {
            "hydratecache" => {
                hydratecache(&line, &arguments, &redis, folder.path()).await;
                run += 1;
            }
            "export" => is_a_variable_of_ours(&line, &arguments),
            "make" => is_a_target(&line, arguments[0]),
            "cargo" => names_crates_of_ours(&line, &arguments),
            "psql" => names_a_file(&line, arguments.last().expect("a file")),
            _ => panic!("no test knows this command: {line}"),
        }
    }
    assert!(run > 10, "the pages have commands");
    within(LIMIT, replica.hydration().caught_up()).await.expect("all has come");
    let stats = replica.stats();
    assert_eq!(stats.rejected, 0, "a command does not go with the README's program: {stats:?}");
}

#[test]
fn a_transport_that_is_none_is_refused_before_anything_is_built() {
    for (target, transport) in [("demo", "pigeon"), ("page", "redis nats"), ("demo", "")] {
        let setting = format!("TRANSPORT={transport}");
        let mut make = std::process::Command::new("make");
        make.args(["--dry-run", target, &setting]).current_dir(repository());
        // These tests are run by `make test`: its own make says where it is, and hands its options on.
        for of_the_outer in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
            make.env_remove(of_the_outer);
        }
        let ended = make.output().expect("it runs");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert!(stderr.contains(&format!("{setting} is none of memory redis")), "{stderr}");
        assert!(ended.stdout.is_empty(), "{ended:?}");
    }
}

/// A live replica of the topic in the pages, built as the README's, of which commands may take a copy.
async fn replica(redis: &Broker) -> Hydrated<User, Replica<User>> {
    let transport = RedisTransport::connect(redis.url()).await.expect("connects");
    let users = Channel::builder(transport, "users").with_versions(VersionDomain::Caller);
    let users = users.build().expect("legal");
    let replica = Hydrated::builder(users, Replica::new()).source(Empty);
    let replica = replica.with_warm_start(WarmStart::new()).start().await.expect("starts");
    within(LIMIT, replica.ready()).await.expect("filled");
    replica
}

/// A source without rows.
struct Empty;

impl Source<User> for Empty {
    fn load(&self, _: Key) -> BoxFuture<'_, Result<Option<Loaded<User>>, SourceError>> {
        ready(Ok(None)).boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<User>), SourceError>> {
        stream::empty().boxed()
    }
}

async fn hydratecache(line: &Line, arguments: &[&str], redis: &Broker, folder: &Path) {
    // Other brokers than the one that runs here: the command is to take the line, and to find nobody.
    let elsewhere = arguments.iter().any(|word| word.contains("://") && *word != REDIS);
    let arguments: Vec<&str> =
        arguments.iter().map(|word| if *word == REDIS { redis.url() } else { word }).collect();
    if let ["tail", ..] | ["demo", "--page", ..] = arguments[..] {
        return ends_by_ctrl_c(line, &arguments, redis).await;
    }
    let mut command = command(&arguments);
    command.env("HYDRATECACHE_TRANSPORT", redis.url()).current_dir(folder).stdin(Stdio::null());
    let ended = tokio::process::Command::from(command).kill_on_drop(true).output();
    let ended = within(LIMIT, ended).await.expect("it runs");
    let code = ended.status.code();
    let good: &[i32] = match (arguments[0], elsewhere) {
        ("doctor", true) => &[1],
        // A Redis as it comes has settings to warn of.
        ("doctor", false) => &[0, 4],
        // Nobody is there. What the other lines wrote differs.
        ("bench" | "snapshot", true) => &[3],
        ("snapshot", false) if arguments.contains(&"--against") => &[0, 1],
        _ => &[0],
    };
    assert!(code.is_some_and(|code| good.contains(&code)), "{line}: {ended:?}");
}

async fn ends_by_ctrl_c(line: &Line, arguments: &[&str], redis: &Broker) {
    // Somebody may look at a page at the port that is taken without one.
    let port = if *arguments == ["demo", "--page"] { Some("127.0.0.1:0") } else { None };
    let arguments: Vec<&str> = arguments.iter().copied().chain(port).collect();
    let mut following = Following::start(&arguments, redis.url());
    match arguments[0] {
        "demo" => following.shows("the page is at http://").await,
        _ => following.is_following().await,
    }
    following.interrupt();
    let ended = following.ended().await;
    assert!(ended.status.success(), "{line}: {ended:?}");
}

fn is_a_variable_of_ours(line: &Line, arguments: &[&str]) {
    let help = command(&["tail", "--help"]).output().expect("it runs").stdout;
    let help = String::from_utf8(help).expect("text");
    let (name, _) = arguments[0].split_once('=').expect("a value");
    assert!(help.contains(&format!("[env: {name}")), "{line}");
}

fn is_a_target(line: &Line, target: &str) {
    let makefile = fs::read_to_string(repository().join("Makefile")).expect("text");
    let is_there = makefile.lines().any(|rule| rule.starts_with(&format!("{target}:")));
    assert!(is_there, "{line}");
}

fn names_crates_of_ours(line: &Line, arguments: &[&str]) {
    let ours = arguments.iter().filter(|word| word.starts_with("hydratecache"));
    for name in ours.clone() {
        assert!(repository().join(name).join("Cargo.toml").is_file(), "{line}: {name}");
    }
    let asks_for_them = matches!(arguments[0], "add" | "install") && ours.count() > 0;
    assert!(asks_for_them || arguments[0] == "test", "{line}");
}

fn names_a_file(line: &Line, path: &str) {
    assert!(repository().join(path).is_file(), "{line}");
}
