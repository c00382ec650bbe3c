//! The demo shows metrics to Prometheus.
#![cfg(feature = "metrics")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use support::{command, hydratecache};

const LIMIT: Duration = Duration::from_secs(60);

/// A demo under way, which ends with this.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What Prometheus would read at `address`.
fn read(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).expect("connects");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// The value of the first series of which `start` is the beginning.
fn value(answer: &str, start: &str) -> Option<f64> {
    let line = answer.lines().find(|line| line.starts_with(start))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[test]
fn the_demo_shows_what_is_applied_and_that_a_cache_is_suspect() {
    let arguments = ["demo", "--seconds", "60", "--rows", "200", "--metrics", "127.0.0.1:0"];
    let mut command = command(&arguments);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut demo = Demo(child.expect("it runs"));
    let stderr = demo.0.stderr.take().expect("a pipe");
    let mut said = String::new();
    BufReader::new(stderr).read_line(&mut said).expect("a line");
    let address = said.trim().strip_prefix("metrics: http://").expect("an address");
    let address = address.strip_suffix("/metrics").expect("a path").parse().expect("an address");

    let begin = Instant::now();
    let (mut has_applied, mut was_suspect) = (false, false);
    while !(has_applied && was_suspect) {
        let answer = read(address);
        has_applied |= value(&answer, "hydratecache_applied_total{").is_some_and(|n| n > 0.0);
        let state = "hydratecache_hydrations{topic=\"demo/cities\",system=\"memory\",state=";
        was_suspect |= value(&answer, &format!("{state}\"suspect\"}}")) == Some(1.0);
        assert!(begin.elapsed() < LIMIT, "{answer}");
        // Not to take its processor away from the demo.
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_address_that_is_taken_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let arguments = ["demo", "--seconds", "1", "--metrics", &address];
    let output = hydratecache(&arguments, Stdio::null());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains(&address), "{stderr}");
}
