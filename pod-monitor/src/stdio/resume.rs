//! Streams that are handed over: as duplicates to whoever keeps them, and as numbers to the monitor
//! that goes on with them.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use pod_monitor_schema::streams::StreamMask;

use super::*;
use crate::sys::own::Kept;
use crate::sys::pipe::number;

/// What another monitor has left of a container's streams.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(super) stdin: Option<OwnedFd>,
    /// With the line that was read so far.
    pub(super) terminal: Option<(OwnedFd, Vec<u8>)>,
    pub(super) outputs: Vec<(Stream, OwnedFd, Vec<u8>)>,
    pub(super) clients: Vec<(ResumedClient, Held)>,
    pub(super) escrowed: bool,
}

/// What an attached client is connected with.
#[derive(Debug)]
pub(super) struct Held {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Remains {
    /// Takes the descriptors that the message names.
    pub(crate) fn take(container: &mut ResumedContainer, kept: &mut Kept) -> Remains {
        let mut outputs = Vec::new();
        let stdout = std::mem::take(&mut container.stdout);
        let terminal = kept.take(container.terminal);
        let terminal = match terminal {
            Some(master) => Some((master, stdout.unfinished)),
            None => {
                let fd = kept.take(stdout.descriptor);
                outputs.extend(fd.map(|fd| (Stream::Stdout, fd, stdout.unfinished)));
                None
            }
        };
        let stderr = std::mem::take(&mut container.stderr);
        let fd = kept.take(stderr.descriptor);
        outputs.extend(fd.map(|fd| (Stream::Stderr, fd, stderr.unfinished)));
        let clients = std::mem::take(&mut container.clients);
        let clients = clients.into_iter().map(|client| {
            let ends = Held {
                stdin: kept.take(client.stdin),
                stdout: kept.take(client.stdout),
                stderr: kept.take(client.stderr),
            };
            (client, ends)
        });
        Remains {
            clients: clients.collect(),
            stdin: kept.take(container.stdin),
            terminal,
            outputs,
            escrowed: container.escrowed,
        }
    }
}

impl Streams {
    /// Goes on with clients that were attached.
    pub(super) fn take_back(
        self: &Rc<Streams>,
        clients: Vec<(ResumedClient, Held)>,
    ) -> io::Result<()> {
        for (like, ends) in clients {
            let client = Client::resume(like, ends.stdout, ends.stderr)?;
            self.clients.borrow_mut().push(Rc::clone(&client));
            let has_input = ends.stdin.is_some();
            if let Some(stdin) = ends.stdin {
                input::spawn(self, &client, stdin)?;
            }
            client::watch_hangup(self, &client, has_input);
        }
        Ok(())
    }

    /// Duplicates of what keeps the container's streams from breaking, in the order of the mask's
    /// bits.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn duplicates(&self) -> io::Result<(StreamMask, Vec<OwnedFd>)> {
        let mut mask = StreamMask::default();
        let mut fds = Vec::new();
        let mut add = |bit, source: &Watched| -> io::Result<()> {
            fds.push(source.get_ref().try_clone()?);
            mask = mask.with(bit);
            Ok(())
        };
        let terminal = self.terminal.borrow();
        if let Some(master) = terminal.as_ref() {
            add(StreamMask::TERMINAL, master)?;
        } else {
            if let Some(stdin) = self.stdin.borrow().as_ref() {
                add(StreamMask::STDIN, stdin)?;
            }
            for output in self.outputs.borrow().iter() {
                let bit = match output.stream {
                    Stream::Stdout => StreamMask::STDOUT,
                    Stream::Stderr => StreamMask::STDERR,
                };
                add(bit, &output.source)?;
            }
        }
        self.escrowed.set(true);
        Ok((mask, fds))
    }

    /// The attached client of a number.
    pub(crate) fn client(&self, number: u32) -> Option<Rc<Client>> {
        let clients = self.clients.borrow();
        clients.iter().find(|c| c.number == number).cloned()
    }

    /// Fills in what another monitor needs to go on with them.
    pub(crate) fn hand_over(&self, container: &mut ResumedContainer) {
        let terminal = self.terminal.borrow();
        container.terminal = terminal.as_ref().map(|master| number(master.get_ref()));
        if terminal.is_none() {
            let stdin = self.stdin.borrow();
            container.stdin = stdin.as_ref().map(|stdin| number(stdin.get_ref()));
        }
        for output in self.outputs.borrow().iter() {
            let state = ResumedOutput {
                descriptor: terminal.is_none().then(|| number(output.source.get_ref())),
                unfinished: output.splitter.borrow().pending().to_vec(),
            };
            match output.stream {
                Stream::Stdout => container.stdout = state,
                Stream::Stderr => container.stderr = state,
            }
        }
        if let Some(log) = self.log.borrow().as_ref() {
            container.log = log.state();
        }
        let clients = self.clients.borrow();
        container.clients = clients.iter().map(|client| client.state()).collect();
        container.escrowed = self.escrowed.get();
    }
}
