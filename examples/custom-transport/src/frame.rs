//! What travels over a connection: a length of four bytes, then a frame.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use hydratecache::wire::MAX_OVERHEAD_BYTES;
use hydratecache::{Key, Topic};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest payload, in bytes.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// The longest frame, in bytes: the largest payload with its key, its envelope and its topic.
pub(crate) const MAX_BYTES: usize =
    MAX_PAYLOAD_BYTES + Key::MAX_BYTES + MAX_OVERHEAD_BYTES + Topic::MAX_BYTES + 16;

/// A frame. The first three change something at the hub, which answers none of them; the echo behind
/// them is the answer to all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// From now on messages of this topic are wanted on this connection.
    Subscribe(String),
    /// From now on they are not.
    Unsubscribe(String),
    /// To the hub: pass it on. From the hub: somebody sent it.
    Message { topic: String, body: Bytes },
    /// Comes back as it is, behind everything that was under way to this connection before.
    Echo,
}

impl Frame {
    /// A letter, the length of the topic, the topic, the body.
    pub(crate) fn encode(&self) -> Bytes {
        let (letter, topic, body) = match self {
            Self::Subscribe(topic) => (b'S', topic.as_str(), &[][..]),
            Self::Unsubscribe(topic) => (b'U', topic.as_str(), &[][..]),
            Self::Message { topic, body } => (b'M', topic.as_str(), &body[..]),
            Self::Echo => (b'E', "", &[][..]),
        };
        let mut bytes = BytesMut::with_capacity(2 + topic.len() + body.len());
        bytes.put_u8(letter);
        bytes.put_u8(u8::try_from(topic.len()).expect("a topic has 200 bytes at most"));
        bytes.put_slice(topic.as_bytes());
        bytes.put_slice(body);
        bytes.freeze()
    }

    /// Reads the next frame. A future that is dropped leaves half a frame read.
    pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(Self, Bytes)> {
        let length = from.read_u32().await? as usize;
        if length > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the frame is too long"));
        }
        let mut bytes = vec![0; length];
        from.read_exact(&mut bytes).await?;
        let bytes = Bytes::from(bytes);
        let frame = Self::decode(&bytes);
        let frame = frame.ok_or(io::Error::new(io::ErrorKind::InvalidData, "this is no frame"))?;
        Ok((frame, bytes))
    }

    fn decode(bytes: &Bytes) -> Option<Self> {
        let (letter, length) = (*bytes.first()?, usize::from(*bytes.get(1)?));
        let topic = std::str::from_utf8(bytes.get(2..2 + length)?).ok()?.to_owned();
        let body = bytes.slice(2 + length..);
        match letter {
            b'S' => Some(Self::Subscribe(topic)),
            b'U' => Some(Self::Unsubscribe(topic)),
            b'M' => Some(Self::Message { topic, body }),
            b'E' => Some(Self::Echo),
            _ => None,
        }
    }
}

/// Writes a frame that [`Frame::encode`] made.
pub(crate) async fn write(to: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).expect("far below 4 GiB");
    to.write_u32(length).await?;
    to.write_all(frame).await
}
