//! What a client that does not behave can do to a monitor: nothing that lasts.

#[cfg(test)]
mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use capnp_rpc::rpc_capnp::message;
use common::*;
use pod_monitor_client::Monitor;
use pod_monitor_client::schema::{ErrorCode, wire};
use rustix::fs::SealFlags;

#[cfg(test)]
mod raw {
    use super::*;
    use capnp::traits::HasTypeId;

    /// A connection that speaks the protocol by hand.
    pub(crate) fn connect(pod: &Pod) -> UnixStream {
        let path = pod.place.config.run_directory.join("monitor.sock");
        let socket = UnixStream::connect(path).unwrap();
        socket
            .set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        socket
    }

    /// The message that asks for the monitor's capability.
    pub(crate) fn bootstrap(question: u32) -> Vec<u8> {
        let mut builder = capnp::message::Builder::new_default();
        let root = builder.init_root::<message::Builder<'_>>();
        root.init_bootstrap().set_question_id(question);
        capnp::serialize::write_message_to_words(&builder)
    }

    /// A call of `state` on what question 0 answers with.
    pub(crate) fn call(question: u32) -> Vec<u8> {
        call_of(2, question)
    }

    /// A call of a method that begins with a trace context, named after its question.
    pub(crate) fn call_of(method: u16, question: u32) -> Vec<u8> {
        let mut builder = capnp::message::Builder::new_default();
        let root = builder.init_root::<message::Builder<'_>>();
        let mut call = root.init_call();
        call.set_question_id(question);
        call.set_interface_id(wire::monitor::Client::TYPE_ID);
        call.set_method_id(method);
        call.reborrow()
            .init_target()
            .init_promised_answer()
            .set_question_id(0);
        let content = call.init_params().init_content();
        // Of two pointers at most, of which the first is the trace context's.
        let params = content.init_as::<wire::monitor::subscribe_params::Builder<'_>>();
        let mut trace = params.init_trace();
        trace.set_request_id(format!("raw-{question}"));
        capnp::serialize::write_message_to_words(&builder)
    }
}

#[test]
fn a_client_that_never_reads_is_not_read_from() {
    alone(async || {
        let pod = Pod::new("runc").await;
        let before = private(pod.monitor.pid());
        let mut socket = raw::connect(&pod);
        socket.write_all(&raw::bootstrap(0)).unwrap();
        let mut sent = 0;
        while sent < 400_000 && socket.write_all(&raw::call(sent + 1)).is_ok() {
            sent += 1;
        }
        assert!(sent < 100_000, "all {sent} calls were taken");
        let grown = private(pod.monitor.pid()).saturating_sub(before);
        println!("{sent} calls taken, {grown} KB more");
        assert!(grown < 3000, "{grown} KB for {sent} calls");
        // Others are served.
        assert!(pod.monitor.state(&trace()).await.is_ok());
        drop(socket);
        pod.close().await;
    });
}

#[test]
fn a_client_that_finishes_nothing_is_dropped() {
    alone(async || {
        let pod = Pod::new("runc").await;
        let mut socket = raw::connect(&pod);
        let mut answers = socket.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 65536];
            while answers.read(&mut bytes).is_ok_and(|read| read > 0) {}
        });
        // Each answer holds a capability, and so is kept until its question is finished.
        let mut sent = 0;
        while socket.write_all(&raw::bootstrap(sent)).is_ok() {
            sent += 1;
            assert!(sent < 400_000, "it is still served");
        }
        reader.join().unwrap();
        assert!(pod.monitor.state(&trace()).await.is_ok());
        pod.close().await;
    });
}

#[test]
fn a_client_may_make_any_number_of_calls_one_after_another() {
    alone(async || {
        let pod = Pod::new("runc").await;
        for number in 0..10_000 {
            let answer = pod.monitor.state(&trace()).await;
            assert!(answer.is_ok(), "call {number}: {answer:?}");
        }
        pod.close().await;
    });
}

#[test]
fn nonsense_ends_the_connection_and_nothing_else() {
    let huge = [[0, 0, 0, 0], [0xff, 0xff, 0xff, 0x0f]].concat();
    let many_segments = [0xff; 64].to_vec();
    let text = b"GET / HTTP/1.1\r\nHost: monitor\r\n\r\n".to_vec();
    let rows = [huge, many_segments, text, vec![0; 4096]];
    alone(async move || {
        let pod = Pod::new("runc").await;
        let before = private(pod.monitor.pid());
        for bytes in rows {
            let mut socket = raw::connect(&pod);
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.write_all(&bytes).unwrap();
            // An abort message may come before the end.
            let mut answer = Vec::new();
            let ended = socket.shutdown(std::net::Shutdown::Write);
            ended
                .and_then(|()| socket.read_to_end(&mut answer))
                .map(drop)
                .unwrap_or(());
            assert!(pod.monitor.state(&trace()).await.is_ok(), "{bytes:?}");
        }
        assert!(private(pod.monitor.pid()) < before + 1000);
        pod.close().await;
    });
}

#[test]
fn calls_and_connections_are_counted() {
    alone(async || {
        let mut place = Place::new("runc");
        place.fake_runtime("case \"$*\" in *delete*) exit 0;; esac; exec sleep 4000");
        place.config.runtime.timeout = Duration::from_millis(500);
        place.config.limits.calls_in_flight = 1;
        place.config.limits.connections = 2;
        let pod = place.spawn().await.unwrap();
        let (one, two) = (
            pod.container("c1", script("true")),
            pod.container("c2", script("true")),
        );
        let trace = trace();
        let (one, two) = tokio::join!(
            pod.monitor.create(&trace, &one),
            pod.monitor.create(&trace, &two)
        );
        let mut codes = [one.unwrap_err().code(), two.unwrap_err().code()];
        codes.sort_by_key(|code| *code == Some(ErrorCode::ResourceExhausted));
        let expect = [ErrorCode::DeadlineExceeded, ErrorCode::ResourceExhausted].map(Some);
        assert_eq!(codes, expect);
        let directory = &pod.place.config.run_directory;
        let mut second = raw::connect(&pod);
        second.write_all(&raw::bootstrap(0)).unwrap();
        assert!(second.read(&mut [0; 1024]).unwrap() > 0);
        assert!(Monitor::connect(&pod.rpc, directory).await.is_err());
        drop(second);
        pod.close().await;
    });
}

#[test]
fn nothing_is_answered_before_hello() {
    alone(async || {
        let pod = Pod::new("runc").await;
        let mut socket = raw::connect(&pod);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(&raw::bootstrap(0)).unwrap();
        for question in 1..=3 {
            socket.write_all(&raw::call(question)).unwrap();
        }
        let mut text = Vec::new();
        let mut bytes = [0; 4096];
        let refusals = |text: &[u8]| {
            let text = String::from_utf8_lossy(text).into_owned();
            text.matches("hello comes first").count()
        };
        while refusals(&text) < 3 {
            let read = socket.read(&mut bytes).unwrap();
            assert!(read > 0, "the connection ended");
            text.extend_from_slice(&bytes[..read]);
        }
        let mut socket = raw::connect(&pod);
        socket.write_all(&raw::bootstrap(0)).unwrap();
        let subscribe = 1;
        socket.write_all(&raw::call_of(subscribe, 4)).unwrap();
        // One line a connection, whatever its client goes on to ask.
        let id = &pod.place.config.id;
        let line = |operation, request| {
            format!("pod-monitor: {operation} {id}: hello comes first (request raw-{request})\n")
        };
        let expect = line("state", 1) + &line("subscribe", 4);
        let log = pod.place.path("monitor.log");
        let said = || {
            let said = std::fs::read_to_string(&log).unwrap();
            assert!(expect.starts_with(&said), "{said}");
            (said == expect).then_some(())
        };
        eventually("both connections were told of", said).await;
        pod.close().await;
    });
}

#[test]
fn an_unknown_token_fetches_nothing() {
    alone(async || {
        let pod = Pod::new("runc").await;
        let path = pod.place.config.run_directory.join("streams.sock");
        let mut socket = UnixStream::connect(path).unwrap();
        socket.write_all(&[7; 16]).unwrap();
        assert_eq!(socket.read(&mut [0; 16]).unwrap(), 0);
        pod.close().await;
    });
}

/// What runs in a container may become able to open the program that it was started by (compare CVE-2019-5736).
#[test]
fn the_program_that_all_monitors_run_cannot_be_changed() {
    alone(async || {
        let program = seal_program();
        let mut pods = Vec::new();
        for _ in 0..2 {
            let place = Place::new("runc");
            pods.push(place.spawn_from(&program, None).await.unwrap());
        }
        let executable =
            |pod: &Pod| File::open(format!("/proc/{}/exe", pod.monitor.pid())).unwrap();
        let [one, other] = [&pods[0], &pods[1]].map(executable);
        let inode = |file: &File| file.metadata().unwrap().ino();
        assert_eq!(inode(&one), inode(&other), "each has a copy of its own");
        let seals = rustix::fs::fcntl_get_seals(&one).unwrap();
        let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        assert!(seals.contains(all), "{seals:?}");
        for pod in pods {
            pod.close().await;
        }
        // A kernel refuses to open for writing what runs. That it does no more is when the seals count.
        let path = format!("/proc/self/fd/{}", one.as_raw_fd());
        let mut written = File::options().write(true).open(path).unwrap();
        let refused = [
            written.write(b"x").map(drop),
            written.set_len(0),
            written.set_len(1 << 30),
        ];
        for attempt in refused {
            let errno = attempt.unwrap_err().raw_os_error();
            assert_eq!(errno, Some(libc::EPERM));
        }
    });
}
