//! The ends of a process's standard streams, read and written without blocking.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};

/// A pipe, a socket, a terminal, or a file such as `/dev/null`.
#[derive(Debug)]
pub(crate) struct Fd(Kind);

#[derive(Debug)]
enum Kind {
    Polled(AsyncFd<OwnedFd>),
    /// epoll refuses regular files; they never block either.
    Plain(OwnedFd),
}

impl Fd {
    /// Must be called within a runtime. Switches the open file to non-blocking.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Fd> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        match register(fd) {
            Ok(polled) => Ok(Fd(Kind::Polled(polled))),
            Err(refused) => {
                let (fd, error) = refused.into_parts();
                if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) {
                    Ok(Fd(Kind::Plain(fd)))
                } else {
                    Err(error)
                }
            }
        }
    }

    /// Bytes read, 0 at the end. A terminal whose other side is gone is at its end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match &self.0 {
            Kind::Plain(fd) => rustix::io::read(fd, &mut *buffer).map_err(io::Error::from),
            Kind::Polled(polled) => loop {
                let mut ready = polled.readable().await?;
                let step =
                    |fd: &AsyncFd<OwnedFd>| Ok(rustix::io::read(fd.get_ref(), &mut *buffer)?);
                match ready.try_io(step) {
                    Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(result) => break result,
                    Err(_would_block) => {}
                }
            },
        };
        match result {
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(0),
            other => other,
        }
    }

    /// Writes everything, however long the reader takes.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.write(bytes).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let polled = match &self.0 {
            Kind::Plain(fd) => return Ok(rustix::io::write(fd, bytes)?),
            Kind::Polled(polled) => polled,
        };
        loop {
            let mut ready = polled.writable().await?;
            let step = |fd: &AsyncFd<OwnedFd>| Ok(rustix::io::write(fd.get_ref(), bytes)?);
            match ready.try_io(step) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "the other constructor is unsafe because of types that give their fd away; an OwnedFd inside an AsyncFd never does"
)]
fn register(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>, AsyncFdRegisterError<OwnedFd>> {
    AsyncFd::try_new(fd)
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::Polled(polled) => polled.get_ref().as_fd(),
            Kind::Plain(fd) => fd.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_cannot_be_polled_is_read_and_written_all_the_same() {
        let null = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null");
        let null = Fd::new(null.expect("/dev/null").into()).expect("accepted");
        null.write_all(b"gone").await.expect("taken");
        assert_eq!(null.read(&mut [0; 8]).await.expect("read"), 0);
    }

    #[tokio::test]
    async fn a_pipe_ends_when_its_writer_is_closed() {
        let (read, write) = rustix::pipe::pipe().expect("pipe");
        let (read, write) = (Fd::new(read).expect("read"), Fd::new(write).expect("write"));
        write.write_all(b"abc").await.expect("room");
        let mut buffer = [0; 8];
        assert_eq!(read.read(&mut buffer).await.expect("read"), 3);
        drop(write);
        assert_eq!(read.read(&mut buffer).await.expect("end"), 0);
    }
}
