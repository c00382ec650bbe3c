//! The listening side: one port that is kept whether or not anything listens on it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::task::{Context, Poll, ready};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::link::RECEIVE_BUFFER_BYTES;

/// How many established connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// A port that can be opened and shut again and again.
#[derive(Debug)]
pub(super) struct Door {
    addr: SocketAddr,
    /// Bound and never listening: keeps the port from everyone else while the door is shut.
    _reservation: Socket,
    listening: Option<Listening>,
}

/// One listening socket, seen twice.
#[derive(Debug)]
struct Listening {
    /// Asks the kernel at once, without the runtime's idea of readiness.
    direct: StdListener,
    /// Made where a runtime is certain to be at hand: in the accepting task.
    registered: Option<TcpListener>,
}

impl Door {
    /// Reserves a free port of 127.0.0.1 and listens on it.
    pub(super) fn open() -> io::Result<Self> {
        let reservation = bound(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let addr = reservation.local_addr()?.as_socket();
        let mut door = Self {
            addr: addr.ok_or_else(|| io::Error::other("a TCP socket without an IP address"))?,
            _reservation: reservation,
            listening: None,
        };
        door.listen()?;
        Ok(door)
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Listens, if it does not already. The accepting task has to poll again to hear of it.
    pub(super) fn listen(&mut self) -> io::Result<()> {
        if self.listening.is_some() {
            return Ok(());
        }
        let socket = bound(self.addr)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        self.listening = Some(Listening { direct: socket.into(), registered: None });
        Ok(())
    }

    /// Refuses new connections and resets those that nobody has accepted.
    pub(super) fn shut(&mut self) {
        self.listening = None;
    }

    /// Takes the connections that are established at this moment but not accepted.
    pub(super) fn waiting(&self) -> impl Iterator<Item = StdStream> {
        let direct = self.listening.as_ref().map(|listening| &listening.direct);
        direct
            .into_iter()
            .flat_map(|direct| std::iter::from_fn(|| direct.accept().ok()))
            .map(|(stream, _)| stream)
    }

    /// Accepts one connection; pending as long as the door is shut.
    pub(super) fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        let Some(listening) = &mut self.listening else {
            return Poll::Pending;
        };
        let (stream, _) = ready!(listening.registered()?.poll_accept(context))?;
        Poll::Ready(Ok(stream))
    }
}

impl Listening {
    fn registered(&mut self) -> io::Result<&TcpListener> {
        if self.registered.is_none() {
            self.registered = Some(TcpListener::from_std(self.direct.try_clone()?)?);
        }
        Ok(self.registered.as_ref().expect("it was set just now"))
    }
}

fn bound(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // The reservation and the listener share the port: Linux wants the first option, BSD the second.
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    // Accepted connections inherit it.
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}
