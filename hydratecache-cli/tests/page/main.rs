//! The page of the demo, as its users see it: in a real browser.

mod browser;
#[path = "../support/mod.rs"]
mod support;

use browser::{Demo, LIMIT, Page, with_page};
use serde_json::Value;
use support::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const REPLICAS: usize = 12;

// As WebDriver names keys.
const TAB: char = '\u{e004}';
const ENTER: char = '\u{e007}';
const RIGHT: char = '\u{e014}';

fn badge(replica: usize) -> String {
    format!("#replica-{replica} .badge")
}

async fn all_are_fresh(page: &Page) {
    page.shows("#summary", "All 12 replicas are fresh.").await;
}

#[tokio::test]
async fn a_cut_link_makes_its_replica_suspect_in_words_and_healing_makes_it_fresh() {
    with_page(&["--rows", "500"], async |page| {
        all_are_fresh(page).await;
        // What is announced next takes its place, whatever it is.
        page.script(
            "const announcer = document.querySelector('#announcer'); window.said = ''; \
             const hear = () => { window.said += announcer.textContent + '\\n' }; \
             const whatever = { childList: true, characterData: true, subtree: true }; \
             new MutationObserver(hear).observe(announcer, whatever)",
        )
        .await;
        let buttons = ["Kill, replica 3", "Kill, replica 4", "Kill, replica 12"];
        let places = page.places(&buttons).await;
        page.click("Cut link, replica 3").await;
        page.shows(&badge(3), "suspect: disrupted").await;
        page.shows("#replica-3 .prose", "Its link is cut").await;
        assert_eq!(page.places(&buttons).await, places, "buttons stay where they are");
        page.shows("#summary", "11 of 12 replicas are fresh.").await;
        page.shows("#detail", "Replica 3: suspect: disrupted.").await;
        page.shows("#events", "replica 3: suspect: the link is lost").await;
        page.until("the cut is announced", async || {
            page.script("return window.said.includes('replica 3')").await == true
        })
        .await;
        // Something is missed, so that there is something to repair.
        let missed = page.number("#published").await + 10;
        page.until("more is published", async || page.number("#published").await > missed).await;
        let before = fresh_again(page).await;
        page.click("Heal link, replica 3").await;
        all_are_fresh(page).await;
        page.shows("#replica-3 [data-count=gaps]", "1").await;
        // Of this replica, and of others if they were late at that moment.
        page.until("that is told", async || fresh_again(page).await > before).await;
    })
    .await;
}

/// How often it was told that replicas are fresh.
async fn fresh_again(page: &Page) -> usize {
    page.text("#events").await.matches(": fresh").count()
}

#[tokio::test]
async fn a_slow_link_makes_its_replica_late_and_the_writers_makes_nobody_suspect() {
    with_page(&["--rows", "500"], async |page| {
        all_are_fresh(page).await;
        page.click("Slow link, replica 12").await;
        page.shows(&badge(12), "late").await;
        page.shows("#replica-12 .prose", "Its link is slow").await;
        page.click("Full speed, replica 12").await;
        all_are_fresh(page).await;
        page.click("Cut link, writer").await;
        page.shows("#writer-state", "publishing fails: broker unavailable").await;
        page.click("Heal link, writer").await;
        page.shows("#writer-state", "writes").await;
        // What was written meanwhile was never published: the replicas are told, and load it.
        let behind = "return [...document.querySelectorAll('[data-count=behind]')]\
                      .every((count) => count.textContent === '0')";
        page.script("document.querySelector('[name=rate][value=\"0\"]').click()").await;
        page.until("no row is behind", async || page.script(behind).await == true).await;
        all_are_fresh(page).await;
    })
    .await;
}

#[tokio::test]
async fn everything_can_be_done_with_the_keyboard_and_the_focus_stays_and_shows() {
    with_page(&["--rows", "500"], async |page| {
        all_are_fresh(page).await;
        tab_to(page, "10").await;
        page.press(RIGHT).await;
        page.shows("#events", "the writer writes 100 rows a second").await;
        tab_to(page, "Kill, replica 1").await;
        page.press(ENTER).await;
        page.shows(&badge(1), "dead").await;
        page.shows("#summary", "11 of 12 replicas are fresh.").await;
        assert_eq!(page.focused().await, "Start, replica 1");
        page.press(ENTER).await;
        all_are_fresh(page).await;
        page.shows("#events", "replica 1 is started").await;
    })
    .await;
}

/// Presses Tab until the element with this name has the focus. Every one on the way shows that it has it.
async fn tab_to(page: &Page, name: &str) {
    for _ in 0..40 {
        page.press(TAB).await;
        let shown = "const e = document.activeElement; \
                     const outlined = e.type === 'radio' ? e.nextElementSibling : e; \
                     const style = getComputedStyle(outlined); \
                     return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2";
        let focused = page.focused().await;
        assert_eq!(page.script(shown).await, true, "{focused:?} does not show its focus");
        if focused == name {
            return;
        }
    }
    panic!("40 times Tab did not lead to {name:?}");
}

#[tokio::test]
async fn with_5000_updates_a_second_asked_for_frames_keep_coming_and_counts_stay_exact() {
    // On a machine that does nothing else there are 60; here other tests run beside. Of a page that draws each
    // update there is none.
    const FRAMES: f64 = 5.0;
    with_page(&["--rows", "500"], async |page| {
        all_are_fresh(page).await;
        page.script("document.querySelector('[name=rate][value=\"5000\"]').click()").await;
        let reaches = page.number("#published").await + 5000;
        page.until("5,000 are published", async || page.number("#published").await > reaches).await;
        let frames = async || {
            let (frames, updates) = frames_a_second(page).await;
            println!("{frames:.1} frames a second at {updates:.0} updates a second");
            frames >= FRAMES
        };
        page.until("frames keep coming", frames).await;
        page.script("document.querySelector('[name=rate][value=\"0\"]').click()").await;
        page.until("every replica is equal", async || is_every_replica_equal(page).await).await;
    })
    .await;
}

/// How many frames the page draws, and how many updates it hears of, in a second, over three of them.
async fn frames_a_second(page: &Page) -> (f64, f64) {
    let script = "
        const done = arguments[arguments.length - 1];
        const published = () => Number(document.querySelector('#published').textContent.replaceAll(',', ''));
        const before = published();
        const began = performance.now();
        let frames = 0;
        const count = (now) => {
            const seconds = (now - began) / 1000;
            if (seconds >= 3) return done([frames / seconds, (published() - before) / seconds]);
            frames += 1;
            requestAnimationFrame(count);
        };
        requestAnimationFrame(count);";
    let measured = page.later(script).await;
    (measured[0].as_f64().expect("a number"), measured[1].as_f64().expect("a number"))
}

/// Whether no replica differs from the table in any row, nothing failed, and each
/// replica that shows no gap shows that it has applied exactly as many writes as were published. On a slow
/// machine there may be gaps, which are repaired in a way that need not apply each write.
async fn is_every_replica_equal(page: &Page) -> bool {
    let script = "
        const all = (name) => [...document.querySelectorAll(`[data-count=${name}]`)]
            .map((count) => Number(count.textContent.replaceAll(',', '')));
        return [all('behind'), all('gaps'), all('applied')]";
    let counts = page.script(script).await;
    let published = page.number("#published").await;
    let of = |index: usize| counts[index].as_array().expect("a list").iter().map(Value::as_u64);
    assert_eq!(of(0).len(), REPLICAS);
    let applied = of(1).zip(of(2)).filter(|(gaps, _)| *gaps == Some(0)).map(|(_, applied)| applied);
    of(0).all(|behind| behind == Some(0))
        && applied.into_iter().all(|applied| applied == Some(published))
        && page.number("#failed").await == 0
}

#[tokio::test]
async fn all_is_readable_in_light_and_in_dark_and_fits_a_narrow_phone() {
    with_page(&["--rows", "500"], async |page| {
        all_are_fresh(page).await;
        page.click("Cut link, replica 2").await;
        page.click("Slow link, replica 3").await;
        page.click("Kill, replica 4").await;
        page.shows(&badge(2), "suspect").await;
        page.shows(&badge(3), "late").await;
        page.shows(&badge(4), "dead").await;
        for scheme in ["light", "dark"] {
            page.prefer(scheme).await;
            let faint = page.script(include_str!("contrast.js")).await;
            assert_eq!(faint, serde_json::json!([]), "{scheme}");
        }
        for width in [320, 390, 768, 1280] {
            page.size(width, 800).await;
            let wide = page.script("return document.documentElement.scrollWidth").await;
            assert!(wide.as_u64() <= Some(width.into()), "{wide} wide on {width}");
        }
    })
    .await;
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn a_redis_that_is_killed_leaves_no_replica_fresh_and_started_again_it_leaves_none_suspect() {
    with_page(&["--rows", "500", "--transport", "redis"], async |page| {
        all_are_fresh(page).await;
        page.click("Cut link, replica 7").await;
        page.shows(&badge(7), "suspect: disrupted").await;
        page.click("Heal link, replica 7").await;
        all_are_fresh(page).await;
        page.click("Kill broker").await;
        page.shows("#broker-state", "dead").await;
        page.shows("#summary", "0 of 12 replicas are fresh.").await;
        page.shows("#detail", "Replicas 1 to 12: suspect: disrupted.").await;
        page.click("Start broker").await;
        page.shows("#broker-state", "up").await;
        all_are_fresh(page).await;
        page.until("the writer publishes again", async || {
            page.text("#writer-state").await == "writes"
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn other_sites_can_neither_act_nor_read() {
    let demo = Demo::start(&["--rows", "5"]).await;
    let own = format!("http://{}", demo.host);
    let rate = r#"{"target":"writer","rate":0}"#;
    let act = |host: &str, origin: &str, content_type: &str, body: &str| {
        let length = body.len();
        format!(
            "POST /act HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nContent-Type: {content_type}\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    };
    let read = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let json = "application/json";
    for (request, expected) in [
        (act(&demo.host, &own, json, rate), "HTTP/1.1 204"),
        (act(&demo.host, "http://example.com", json, rate), "HTTP/1.1 403"),
        (act("example.com", "http://example.com", json, rate), "HTTP/1.1 403"),
        (act(&demo.host, &own, "text/plain", rate), "HTTP/1.1 415"),
        (act(&demo.host, &own, json, "{}"), "HTTP/1.1 422"),
        (act(&demo.host, &own, json, r#"{"target":"writer","rate":5001}"#), "HTTP/1.1 409"),
        (
            act(&demo.host, &own, json, r#"{"target":"replica","number":13,"lives":true}"#),
            "HTTP/1.1 409",
        ),
        (read(&demo.host), "HTTP/1.1 200"),
        (read("example.com"), "HTTP/1.1 403"),
    ] {
        let answer = answer(&demo.host, &request).await;
        assert!(answer.starts_with(expected), "{request}\n\n{answer}");
        assert!(answer.contains("default-src 'none'"), "{answer}");
        assert!(!answer.contains("access-control-allow"), "{answer}");
    }
    demo.end().await;
}

async fn answer(host: &str, request: &str) -> String {
    within(LIMIT, async {
        let mut stream = TcpStream::connect(host).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    })
    .await
}
