//! A page of the demo in a browser: both are started for one test, and ended with it.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::process::Stdio;
use std::time::Duration;

use axum::http::Method;
use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::error::NewSessionError;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use futures::FutureExt;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use url::{ParseError, Url};

use crate::support::{command, within};

/// How long anything may take that is waited for, on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// How long a click may take until its button shows it.
const CLICK_LIMIT: Duration = Duration::from_secs(20);

/// How often the page is looked at while something is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The demo under way, with a page.
pub(crate) struct Demo {
    process: Child,
    /// Where the page is: host and port.
    pub(crate) host: String,
}

impl Demo {
    /// Starts it with `arguments`, on a port of its own.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let all = [&["demo", "--page", "127.0.0.1:0", "--seed", "7"], arguments].concat();
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let mut process = Command::from(command(&all));
        process.current_dir(root).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = process.spawn().expect("it starts");
        let line = line_with(&mut process, "the page is at ").await;
        let host = line.split('/').nth(2).expect("a URL").to_owned();
        Self { process, host }
    }

    /// Presses Ctrl-C, which is how it ends.
    pub(crate) async fn end(mut self) {
        let pid = self.process.id().expect("it runs").to_string();
        let sent = std::process::Command::new("kill").args(["-INT", &pid]).status();
        assert!(sent.expect("kill runs").success());
        let status = within(LIMIT, self.process.wait()).await.expect("it ends");
        assert!(status.success(), "{status}");
    }
}

/// Runs `body` with the page of a demo in a browser, and ends both, also where it panics. What the
/// browser complained of is a failure, too.
pub(crate) async fn with_page(arguments: &[&str], body: impl AsyncFnOnce(&Page)) {
    let demo = Demo::start(arguments).await;
    let (mut driver, page) = open(&format!("http://{}/", demo.host)).await;
    let done = AssertUnwindSafe(body(&page)).catch_unwind().await;
    let complaints = page.complaints().await;
    page.client.close().await.expect("the browser ends");
    driver.0.kill().await.expect("the driver ends");
    demo.end().await;
    done.unwrap_or_else(|panic| resume_unwind(panic));
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// A browser with that page. One that takes its driver's minute to start, on a busy machine, is started again.
async fn open(url: &str) -> (Driver, Page) {
    for _ in 0..3 {
        let mut driver = Driver::start();
        match driver.open(url).await {
            Ok(page) => return (driver, page),
            Err(why) => eprintln!("chromium did not start: {why}"),
        }
        driver.0.kill().await.expect("the driver ends");
    }
    panic!("chromium did not start at the third attempt either");
}

/// chromedriver, which starts browsers.
struct Driver(Child);

impl Driver {
    fn start() -> Self {
        let mut driver = Command::new("chromedriver");
        driver.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        Self(driver.spawn().expect(
            "chromedriver starts; if it is missing, `scripts/tools.sh chromedriver:chromium-driver` \
             installs it with a browser, as `make test` does",
        ))
    }

    async fn open(&mut self, url: &str) -> Result<Page, NewSessionError> {
        let line = line_with(&mut self.0, "started successfully on port ").await;
        let port = line.rsplit(' ').next().expect("words").trim_end_matches('.');
        // Root needs the first, and small containers the second.
        let arguments = ["no-sandbox", "disable-dev-shm-usage", "headless=new", "disable-gpu"];
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities.as_object().cloned().expect("an object"));
        let url_of_driver = format!("http://127.0.0.1:{port}");
        let client = within(LIMIT, builder.connect(&url_of_driver)).await?;
        let page = Page { client };
        page.size(1280, 900).await;
        page.client.goto(url).await.expect("the page is there");
        Ok(page)
    }
}

/// Reads the output of `process` up to a line with `part`.
async fn line_with(process: &mut Child, part: &str) -> String {
    let mut lines = BufReader::new(process.stdout.as_mut().expect("it was asked for")).lines();
    let line = async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if line.contains(part) {
                return line;
            }
        }
        panic!("it ended before it said: {part}");
    };
    within(LIMIT, line).await
}

/// The page in a browser.
pub(crate) struct Page {
    client: Client,
}

impl Page {
    /// What `script` returns.
    pub(crate) async fn script(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.expect("it runs")
    }

    /// What `script` hands to its callback, the last of its arguments.
    pub(crate) async fn later(&self, script: &str) -> Value {
        self.client.execute_async(script, Vec::new()).await.expect("it runs")
    }

    /// The text of the one element that `css` selects, if it is there.
    pub(crate) async fn text(&self, css: &str) -> String {
        let found = format!("return document.querySelector('{css}')?.textContent ?? ''");
        self.script(&found).await.as_str().expect("text").to_owned()
    }

    /// The number that an element shows.
    pub(crate) async fn number(&self, css: &str) -> u64 {
        let text = self.text(css).await.replace(',', "");
        text.parse().unwrap_or_else(|_| panic!("{css} shows {text:?}"))
    }

    /// Waits until the element's text has `part` in it.
    pub(crate) async fn shows(&self, css: &str, part: &str) {
        let what = format!("{css} shows {part:?}");
        self.until(&what, async || self.text(css).await.contains(part)).await;
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !condition().await {
            if Instant::now() > deadline {
                let summary = self.text("main").await;
                panic!("it did not happen in {LIMIT:?} that {what}: {summary}");
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Clicks the button with this label, which then has another one. What moves while it is pressed takes no click,
    /// and is clicked again, as people do.
    pub(crate) async fn click(&self, label: &str) {
        let css = format!("[aria-label=\"{label}\"]");
        for _ in 0..3 {
            let button = self.client.find(Locator::Css(&css)).await.expect("it is there");
            button.click().await.expect("it can be clicked");
            let seen = Instant::now();
            while seen.elapsed() < CLICK_LIMIT {
                if self.client.find(Locator::Css(&css)).await.is_err() {
                    return;
                }
                sleep(LOOK_INTERVAL).await;
            }
        }
        panic!("three clicks on {label:?} did nothing");
    }

    /// How far down the buttons with these labels stand, in pixels.
    pub(crate) async fn places(&self, labels: &[&str]) -> Vec<Value> {
        let mut places = Vec::new();
        for label in labels {
            let place = format!(
                "return document.querySelector('[aria-label=\"{label}\"]').getBoundingClientRect().top + scrollY"
            );
            places.push(self.script(&place).await);
        }
        places
    }

    /// Presses a key wherever the focus is.
    pub(crate) async fn press(&self, key: char) {
        let keyboard = KeyActions::new("keyboard".to_owned())
            .then(KeyAction::Down { value: key })
            .then(KeyAction::Up { value: key });
        self.client.perform_actions(keyboard).await.expect("it takes keys");
    }

    /// What the focused element is called.
    pub(crate) async fn focused(&self) -> String {
        let name = "const e = document.activeElement; \
                    return e.getAttribute('aria-label') ?? (e.value || e.textContent.trim())";
        self.script(name).await.as_str().expect("text").to_owned()
    }

    /// Gives the page this size, in pixels of CSS.
    pub(crate) async fn size(&self, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics).await;
    }

    /// Asks for the light or the dark page.
    pub(crate) async fn prefer(&self, scheme: &str) {
        let features = json!({
            "features": [
                { "name": "prefers-color-scheme", "value": scheme },
                { "name": "prefers-reduced-motion", "value": "reduce" },
            ]
        });
        self.devtools("Emulation.setEmulatedMedia", &features).await;
    }

    async fn devtools(&self, cmd: &str, params: &Value) {
        let command =
            Vendor { path: "goog/cdp/execute", body: json!({ "cmd": cmd, "params": params }) };
        self.client.issue_cmd(command).await.expect("the browser does it");
    }

    /// Warnings and errors of the browser's console.
    async fn complaints(&self) -> Vec<String> {
        let command = Vendor { path: "se/log", body: json!({ "type": "browser" }) };
        let log = self.client.issue_cmd(command).await.expect("the browser keeps a log");
        let entries = log.as_array().expect("a list").iter();
        let bad = entries
            .filter(|entry| ["WARNING", "SEVERE"].map(Value::from).contains(&entry["level"]));
        bad.map(|entry| entry["message"].to_string()).collect()
    }
}

/// A command of chromedriver's own.
#[derive(Debug)]
struct Vendor {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Vendor {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}
