//! The only place that opens sockets, so that a simulation can replace it.

pub mod socket_options;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use tokio::net::tcp::{OwnedReadHalf as ReadHalf, OwnedWriteHalf as WriteHalf};
pub use tokio::net::{TcpListener, TcpStream};

use crate::model::address::Address;

/// Connections that wait to be accepted, per listening socket. Linux caps it at `net.core.somaxconn` (4096).
const BACKLOG: u32 = 4096;

/// A listening socket that shares its port with the other cores' sockets.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(BACKLOG).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Fails when somebody listens there already, which [`listen`] would share the port with.
pub fn check_unused(address: SocketAddr) -> io::Result<()> {
    use socket2::{Domain, Socket, Type};
    // Bound but never listening: a listener, however short, would take connections and reset them.
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// Where a name leads to now.
pub async fn resolve(address: &Address) -> io::Result<SocketAddr> {
    match address {
        Address::Socket(address) => Ok(*address),
        Address::Host(host, port) => {
            let mut found = tokio::net::lookup_host((&**host, *port)).await?;
            found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
        }
    }
}

/// Whether the kernel says who calls, on this node: an agent's programs answer on any socket, also on one that leads
/// nowhere.
pub fn kernel_tells_callers() -> bool {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None);
    socket.is_ok_and(|socket| matches!(socket_options::kernel_caller(&socket), Ok(Some(_))))
}

/// The addresses of `host:port`.
pub async fn resolve_all(host_and_port: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host(host_and_port).await?.collect())
}

/// Connects to a function within `timeout`, without Nagle's delay.
pub async fn connect(address: &Address, timeout: Duration) -> io::Result<TcpStream> {
    let connecting = async {
        match address {
            Address::Socket(address) => TcpStream::connect(address).await,
            Address::Host(host, port) => TcpStream::connect((&**host, *port)).await,
        }
    };
    let stream = tokio::time::timeout(timeout, connecting)
        .await
        .map_err(|_elapsed| io::Error::new(io::ErrorKind::TimedOut, "connect timed out"))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The answer to one request, with its connection driven beside it instead of in a task.
pub async fn drive<T, E: From<hyper::Error>>(
    answer: impl Future<Output = Result<T, E>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> Result<T, E> {
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        // The answer first: a server may close right after it.
        biased;
        answer = &mut answer => answer,
        ended = connection => {
            ended?;
            answer.await
        }
    }
}

/// Bounds what the kernel keeps of a stream, in bytes: of what it cannot send yet, and of what nobody has read. What is
/// urgent does not wait behind more than that.
pub fn limit_queues(stream: &TcpStream, unsent: u32, unread: usize) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_notsent_lowat(unsent)?;
    socket.set_recv_buffer_size(unread)
}
