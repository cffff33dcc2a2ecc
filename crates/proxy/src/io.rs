//! A connection's bytes, whatever carries them. One type instead of a parameter that would spread through every signature.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

/// See the module.
pub enum Io {
    /// As it is.
    Tcp(TcpStream),
    /// A client's, decrypted.
    TlsIn(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// An upstream's, decrypted.
    TlsOut(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// A pipe in memory, for tests and for requests of our own.
    Memory(DuplexStream),
}

impl From<TcpStream> for Io {
    fn from(stream: TcpStream) -> Io {
        Io::Tcp(stream)
    }
}

impl From<DuplexStream> for Io {
    fn from(stream: DuplexStream) -> Io {
        Io::Memory(stream)
    }
}

impl Io {
    /// Whether nothing can be read: of a connection that nobody uses, whether it is still good. Anything else (bytes nobody asked for, an end,
    /// an error) makes it useless.
    ///
    /// Of plain TCP this costs a system call only where the reactor saw something.
    pub fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if let Io::Tcp(stream) = self {
            return match stream.poll_read_ready(&mut cx) {
                Poll::Pending => true,
                Poll::Ready(Err(_)) => false,
                // The reactor's mark may be older than the last read.
                Poll::Ready(Ok(())) => {
                    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
                }
            };
        }
        Pin::new(self).poll_read(&mut cx, &mut ReadBuf::new(&mut [0])).is_pending()
    }

    /// Waits until something can be read, of plain TCP without a buffer. Others give their first byte.
    pub fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<u8>>> {
        if let Io::Tcp(stream) = self {
            return stream.poll_read_ready(cx).map_ok(|()| None);
        }
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        match Pin::new(self).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(())) => Poll::Ready(Ok(Some(byte[0]))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

macro_rules! each {
    ($self:expr, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Io::Tcp($io) => $call,
            Io::TlsIn($io) => $call,
            Io::TlsOut($io) => $call,
            Io::Memory($io) => $call,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}
