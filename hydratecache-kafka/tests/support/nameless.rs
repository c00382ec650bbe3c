//! A proxy before a Kafka that lets it name no broker, as brokers do that have just come back.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hydratecache_testkit::broker::Broker;
use hydratecache_testkit::kafka::{Way, behind, free_ports};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// A Kafka's question for brokers and topics.
const METADATA: [u8; 2] = [0, 3];

/// Its versions whose answers begin alike: correlation id, tags, throttle time, brokers.
const VERSIONS: std::ops::RangeInclusive<u8> = 9..=13;

/// Passes everything on, and leaves the brokers out of what the Kafka says of its cluster while it is to.
pub(crate) struct Nameless {
    _broker: Broker,
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Shared {
    names_none: AtomicBool,
    emptied: AtomicUsize,
}

impl Nameless {
    /// A Kafka of its own behind such a proxy.
    pub(crate) async fn start() -> Self {
        let port = free_ports(1).expect("a port")[0];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        let shared = Arc::<Shared>::default();
        let task = AbortOnDropHandle::new(tokio::spawn(keep(listener, port, shared.clone())));
        let way = Way { port, advertised: addr };
        let broker = behind(&[way], "PLAINTEXT", []).await.expect("a Kafka of its own");
        Self { _broker: broker, addr, shared, _task: task }
    }

    /// From now on the brokers are left out, or no more.
    pub(crate) fn names_none(&self, names_none: bool) {
        self.shared.names_none.store(names_none, Ordering::Relaxed);
    }

    /// How many answers were without brokers so far.
    pub(crate) fn emptied(&self) -> usize {
        self.shared.emptied.load(Ordering::Relaxed)
    }
}

async fn keep(listener: TcpListener, port: u16, shared: Arc<Shared>) {
    let mut links = Vec::new();
    while let Ok((client, _)) = listener.accept().await {
        let link = link(client, port, shared.clone());
        links.push(AbortOnDropHandle::new(tokio::spawn(link)));
    }
}

async fn link(client: TcpStream, port: u16, shared: Arc<Shared>) {
    let Ok(broker) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let asked = Mutex::new(HashSet::new());
    let note = |question: Vec<u8>| {
        if question.starts_with(&METADATA) {
            assert!(question[2] == 0 && VERSIONS.contains(&question[3]), "{question:02x?}");
            lock(&asked).insert(question[4..8].to_vec());
        }
        question
    };
    let empty = |answer: Vec<u8>| {
        let is_metadata = lock(&asked).remove(&answer[..4]);
        if !(is_metadata && shared.names_none.load(Ordering::Relaxed)) {
            return answer;
        }
        shared.emptied.fetch_add(1, Ordering::Relaxed);
        without_brokers(&answer)
    };
    // Whoever ends first ends both.
    tokio::select! {
        _ = pass(from_client, to_broker, note) => {}
        _ = pass(from_broker, to_client, empty) => {}
    }
}

fn lock(asked: &Mutex<HashSet<Vec<u8>>>) -> MutexGuard<'_, HashSet<Vec<u8>>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes on what `change` makes of each frame, until one side ends.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    change: impl Fn(Vec<u8>) -> Vec<u8>,
) -> io::Result<()> {
    loop {
        let mut frame = vec![0; from.read_u32().await? as usize];
        from.read_exact(&mut frame).await?;
        let frame = change(frame);
        to.write_u32(u32::try_from(frame.len()).expect("it was one")).await?;
        to.write_all(&frame).await?;
    }
}

/// The answer with an empty list of brokers, and everything else as it was.
fn without_brokers(answer: &[u8]) -> Vec<u8> {
    const EMPTY: u8 = 1;
    // Correlation id, no tags, throttle time.
    let (head, mut rest) = answer.split_at(4 + 1 + 4);
    let brokers = length(&mut rest).expect("a list");
    for _ in 0..brokers {
        rest = &rest[4..];
        skip(&mut rest);
        rest = &rest[4..];
        skip(&mut rest);
        assert_eq!(rest[0], 0, "no tags");
        rest = &rest[1..];
    }
    [head, &[EMPTY], rest].concat()
}

/// Skips a text, or none.
fn skip(bytes: &mut &[u8]) {
    let text = length(bytes).unwrap_or_default();
    *bytes = &bytes[text..];
}

/// A length is written as one more, in groups of seven bits; zero stands for nothing at all.
fn length(bytes: &mut &[u8]) -> Option<usize> {
    let mut length = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    length.checked_sub(1)
}
