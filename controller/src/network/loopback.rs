//! The loopback interface of a pod, which a new network namespace has but leaves down.
//!
//! It is set up by one netlink message, which needs no unsafe code and no plugin process.

use std::os::fd::AsRawFd;
use std::path::PathBuf;

use super::namespace::{NamespaceError, within};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// The loopback interface is the first one of every namespace: LOOPBACK_IFINDEX in the kernel's
/// net/net_namespace code.
const LOOPBACK_INDEX: i32 = 1;
const HEADER: usize = 16;
const MESSAGE: usize = HEADER + 16;

/// Why the interface is not up.
#[derive(Debug, thiserror::Error)]
pub enum LoopbackError {
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The kernel refuses.
    #[error("bring up the loopback interface in {}", netns.display())]
    Up {
        /// The namespace.
        netns: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// Brings up the loopback interface of a namespace. Does nothing when it is up.
pub(super) async fn up(netns: PathBuf) -> Result<(), LoopbackError> {
    let done = within(netns.clone(), set_up).await?;
    done.map_err(|source| LoopbackError::Up { netns, source })
}

fn set_up() -> nix::Result<()> {
    let (family, flags) = (AddressFamily::Netlink, SockFlag::SOCK_CLOEXEC);
    let socket = socket(family, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    send(socket.as_raw_fd(), &message(), MsgFlags::empty())?;
    let mut answer = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    acknowledged(&answer[..length])
}

/// RTM_NEWLINK that sets IFF_UP and asks for an acknowledgement: struct nlmsghdr followed by struct
/// ifinfomsg, in the machine's byte order, as rtnetlink(7) has them.
fn message() -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    let mut put = |at: usize, bytes: &[u8]| message[at..at + bytes.len()].copy_from_slice(bytes);
    let flags: u16 = 0x1 | 0x4; // NLM_F_REQUEST, NLM_F_ACK
    let up: u32 = 0x1; // IFF_UP
    put(0, &32_u32.to_ne_bytes());
    put(4, &libc::RTM_NEWLINK.to_ne_bytes());
    put(6, &flags.to_ne_bytes());
    put(HEADER + 4, &LOOPBACK_INDEX.to_ne_bytes());
    put(HEADER + 8, &up.to_ne_bytes());
    put(HEADER + 12, &up.to_ne_bytes());
    message
}

/// NLMSG_ERROR carries a negative errno, or 0 for an acknowledgement: netlink(7).
fn acknowledged(answer: &[u8]) -> nix::Result<()> {
    let kind = answer
        .get(4..6)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_ne_bytes);
    let code = answer
        .get(16..20)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(2), Some(0)) => Ok(()),
        (Some(2), Some(code)) => Err(Errno::from_raw(code.wrapping_neg())),
        _ => Err(Errno::EBADMSG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_kernel_are_told_apart() {
        let answer = |kind: u16, code: i32| {
            let mut bytes = [0_u8; 36];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            acknowledged(&bytes)
        };
        assert_eq!(answer(2, 0), Ok(()));
        assert_eq!(answer(2, -1), Err(Errno::EPERM));
        assert_eq!(answer(3, 0), Err(Errno::EBADMSG));
        assert_eq!(acknowledged(&[0; 5]), Err(Errno::EBADMSG));
    }
}
