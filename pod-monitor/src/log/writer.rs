//! The file. A write that fails loses bytes and counts them; it stops nothing.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use pod_monitor_schema::ResumedLog;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::splitter::{Piece, Splitter};
use super::{Stream, time};
use crate::sys::pipe::number;

/// The length of a line's start: a time, ` stdout ` or ` stderr `, `F `.
const START: usize = time::LENGTH + 10;

/// The longest line of ours that may be there in part, which is more than the longest that can be
/// configured.
const LONGEST_REST: u64 = 2 << 20;
/// How much of it is looked at in one go.
const ROUND: usize = 16 * 1024;

/// A container's log.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    fd: OwnedFd,
    loss: Loss,
}

/// What could not be written.
#[derive(Debug, Default)]
struct Loss {
    /// Bytes of content, since the container was created.
    total: u64,
    /// Those that the log does not speak of yet, and why they were lost.
    unmarked: Option<(u64, Errno)>,
    /// Whether the file ends within a line.
    torn: bool,
}

impl LogFile {
    /// Opens the file to be appended to, and makes it where it does not exist.
    ///
    /// # Errors
    /// The kernel's; `InvalidInput` for what is not a regular file. No file is left behind.
    pub(crate) fn open(path: &Path) -> io::Result<LogFile> {
        Ok(LogFile {
            path: path.to_owned(),
            fd: open(path)?,
            loss: Loss::default(),
        })
    }

    /// Goes on with a log that another has begun. `total` are the bytes that it lacks so far.
    ///
    /// # Errors
    /// As `open`, where the file is opened by its path.
    pub(crate) fn resume(
        path: &Path,
        fd: Option<OwnedFd>,
        log: &ResumedLog,
        total: u64,
    ) -> io::Result<LogFile> {
        let unmarked = log
            .unmarked
            .map(|(bytes, errno)| (bytes, Errno::from_raw_os_error(errno)));
        let fd = match fd {
            Some(fd) => fd,
            // Whoever had it may have died in the middle of a write.
            None => {
                let fd = open(path)?;
                cut_last_line(path, &fd)?;
                fd
            }
        };
        Ok(LogFile {
            path: path.to_owned(),
            fd,
            loss: Loss {
                total,
                unmarked,
                torn: log.torn,
            },
        })
    }

    /// What another needs to go on with it; the descriptor stays this one's.
    pub(crate) fn state(&self) -> ResumedLog {
        ResumedLog {
            descriptor: Some(number(&self.fd)),
            unmarked: self
                .loss
                .unmarked
                .map(|(bytes, errno)| (bytes, errno.raw_os_error())),
            torn: self.loss.torn,
        }
    }

    /// Opens the path anew. On an error the old file stays in use.
    ///
    /// # Errors
    /// As `open`.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.fd = open(&self.path)?;
        self.loss.torn = false;
        Ok(())
    }

    /// Bytes of output that could not be written so far.
    pub(crate) fn lost(&self) -> u64 {
        self.loss.total
    }

    /// Whether what was lost last is not yet noted in the log.
    pub(crate) fn is_losing(&self) -> bool {
        self.loss.unmarked.is_some()
    }

    /// Says what is missing while there is nothing to write; of no effect where nothing is, or still no space.
    pub(crate) fn settle(&mut self, now: i64) {
        // Until it succeeds the loss stays unmarked and is tried again.
        let _ = self.mark(now);
    }

    /// Writes the lines that one read completes. They are joined in `room` first, since a write of
    /// many small slices costs several times one of a whole. Answers how much of it was used.
    pub(crate) fn feed(
        &mut self,
        splitter: &mut Splitter,
        chunk: &[u8],
        stamp: Stamp,
        room: &mut [u8],
    ) -> usize {
        let starts = Starts::new(stamp);
        let (mut used, mut most) = (0, 0);
        splitter.feed(chunk, |piece| {
            let start = starts.of(&piece);
            if let Some(more) = join(room.get_mut(used..).unwrap_or_default(), start, &piece) {
                used += more;
                return;
            }
            most = most.max(used);
            self.write_lines(room.get(..used).unwrap_or_default(), stamp.now);
            used = join(room, start, &piece).unwrap_or_else(|| {
                self.write_piece(start, &piece, stamp.now);
                0
            });
        });
        self.write_lines(room.get(..used).unwrap_or_default(), stamp.now);
        most.max(used)
    }

    /// Writes what the splitter holds back as a partial line.
    pub(crate) fn flush(&mut self, splitter: &mut Splitter, stamp: Stamp) {
        if let Some(piece) = splitter.flush() {
            self.write_piece(Starts::new(stamp).of(&piece), &piece, stamp.now);
        }
    }

    /// Writes whole lines.
    fn write_lines(&mut self, lines: &[u8], now: i64) {
        if lines.is_empty() {
            return;
        }
        let result = match self.mark(now) {
            Ok(()) => self.write(&[IoSlice::new(lines)]),
            Err(errno) => Err((0, errno)),
        };
        if let Err((written, errno)) = result {
            let there = lines.get(..written).unwrap_or_default();
            let whole = memchr::memrchr(b'\n', there).map_or(0, |end| end + 1);
            self.cut(written - whole);
            self.lose(content(lines.get(whole..).unwrap_or_default()), errno);
        }
    }

    /// Writes one line, of any length.
    fn write_piece(&mut self, start: &Start, piece: &Piece<'_>, now: i64) {
        let parts = [start, piece.head.as_slice(), piece.tail, b"\n"].map(IoSlice::new);
        let result = match self.mark(now) {
            Ok(()) => self.write(&parts),
            Err(errno) => Err((0, errno)),
        };
        if let Err((written, errno)) = result {
            self.cut(written);
            self.lose(piece.len(), errno);
        }
    }

    /// Says in the log how much is missing from it. Until that succeeds nothing else is tried.
    fn mark(&mut self, now: i64) -> Result<(), Errno> {
        let Some((bytes, cause)) = self.loss.unmarked else {
            return Ok(());
        };
        let mut line = Vec::with_capacity(128);
        if self.loss.torn {
            line.push(b'\n');
        }
        let stamp = Stamp {
            stream: Stream::Stderr,
            now,
        };
        line.extend_from_slice(&start(stamp, b'F'));
        let text = format!(
            "pod-monitor: {bytes} bytes of output are missing here: {}\n",
            io::Error::from(cause)
        );
        line.extend_from_slice(text.as_bytes());
        if let Err((written, errno)) = self.write(&[IoSlice::new(&line)]) {
            self.cut(written);
            return Err(errno);
        }
        self.loss.unmarked = None;
        self.loss.torn = false;
        Ok(())
    }

    /// Writes all of the slices or says how many bytes are in the file and why not more.
    fn write(&self, slices: &[IoSlice<'_>]) -> Result<(), (usize, Errno)> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        let mut written = 0;
        while written < length {
            // The usual case is one call; what a short write left over is rare, so it is copied.
            let result = if written == 0 {
                rustix::io::writev(&self.fd, slices)
            } else {
                let all: Vec<u8> = slices
                    .iter()
                    .flat_map(|slice| slice.iter().copied())
                    .collect();
                rustix::io::write(&self.fd, all.get(written..).unwrap_or_default())
            };
            match result {
                Ok(0) => return Err((written, Errno::IO)),
                Ok(more) => written += more,
                Err(Errno::INTR) => {}
                Err(errno) => return Err((written, errno)),
            }
        }
        Ok(())
    }

    /// Takes back the bytes of a line that is not whole.
    fn cut(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let shorter = rustix::fs::fstat(&self.fd).and_then(|stat| {
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            rustix::fs::ftruncate(&self.fd, size.saturating_sub(bytes as u64))
        });
        self.loss.torn |= shorter.is_err();
    }

    fn lose(&mut self, bytes: usize, errno: Errno) {
        let bytes = bytes as u64;
        self.loss.total += bytes;
        let unmarked = self.loss.unmarked.map_or(0, |(bytes, _)| bytes);
        self.loss.unmarked = Some((unmarked + bytes, errno));
    }
}

/// Puts a line into `room` and answers its length, or leaves it where it does not fit.
fn join(room: &mut [u8], start: &Start, piece: &Piece<'_>) -> Option<usize> {
    let length = START + piece.len() + 1;
    let (front, rest) = room.get_mut(..length)?.split_at_mut(START);
    front.copy_from_slice(start);
    let (head, rest) = rest.split_at_mut(piece.head.len());
    head.copy_from_slice(&piece.head);
    let (tail, end) = rest.split_at_mut(piece.tail.len());
    tail.copy_from_slice(piece.tail);
    end.fill(b'\n');
    Some(length)
}

/// The bytes of content in whole lines.
fn content(lines: &[u8]) -> usize {
    lines.len() - memchr::memchr_iter(b'\n', lines).count() * (START + 1)
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    // Without O_NONBLOCK the open of a FIFO would wait for its reader.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(fd)
}

/// Shortens the file by what follows its last line end, so that the next line begins where one
/// should. A longer rest than any line of ours is left alone.
fn cut_last_line(path: &Path, fd: &OwnedFd) -> io::Result<()> {
    let size = u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0);
    let start = size.saturating_sub(LONGEST_REST);
    let mut rest = vec![0; usize::try_from(size - start).unwrap_or(0).min(ROUND)];
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let reader = rustix::fs::open(path, flags, Mode::empty())?;
    let mut end = size;
    while end > start {
        let begin = end.saturating_sub(rest.len() as u64).max(start);
        let read = rustix::io::pread(&reader, &mut rest, begin)?;
        let wanted = usize::try_from(end - begin).unwrap_or(0).min(read);
        let part = rest.get(..wanted).unwrap_or_default();
        if let Some(at) = memchr::memrchr(b'\n', part) {
            return truncate(fd, begin + at as u64 + 1, size);
        }
        end = begin;
    }
    if start == 0 {
        truncate(fd, 0, size)
    } else {
        Ok(())
    }
}

fn truncate(fd: &OwnedFd, length: u64, size: u64) -> io::Result<()> {
    if length < size {
        rustix::fs::ftruncate(fd, length)?;
    }
    Ok(())
}

/// When and from where bytes came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) stream: Stream,
    /// Nanoseconds since the Unix epoch.
    pub(crate) now: i64,
}

/// The starts that the lines of one read have.
#[derive(Debug)]
struct Starts {
    partial: Start,
    full: Start,
}

impl Starts {
    fn new(stamp: Stamp) -> Starts {
        Starts {
            partial: start(stamp, b'P'),
            full: start(stamp, b'F'),
        }
    }

    fn of(&self, piece: &Piece<'_>) -> &Start {
        if piece.end { &self.full } else { &self.partial }
    }
}

/// The start of a line.
type Start = [u8; START];

fn start(stamp: Stamp, tag: u8) -> Start {
    let time = time::format(stamp.now);
    let name = stamp.stream.name().as_bytes();
    let parts = [time.as_slice(), b" ", name, &[b' ', tag, b' ']];
    let mut bytes = [b' '; START];
    for (place, byte) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
        *place = *byte;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(stream: Stream) -> Stamp {
        Stamp { stream, now: 1 }
    }

    /// Writes a read, with as much room as the pump has.
    fn feed(file: &mut LogFile, splitter: &mut Splitter, chunk: &[u8], stream: Stream) -> usize {
        file.feed(splitter, chunk, stamp(stream), &mut [0; 4096])
    }

    const TIME: &str = "1970-01-01T00:00:00.000000001Z";

    #[test]
    fn lines_have_time_stream_tag_and_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut file = LogFile::open(&path).unwrap();
        let (mut out, mut err) = (Splitter::new(8), Splitter::new(8));
        feed(&mut file, &mut out, b"one\ntw", Stream::Stdout);
        feed(&mut file, &mut err, b"oops\n", Stream::Stderr);
        feed(&mut file, &mut out, b"o\n123456789", Stream::Stdout);
        file.flush(&mut out, stamp(Stream::Stdout));
        file.flush(&mut out, stamp(Stream::Stdout));
        let expect = [
            "stdout F one",
            "stderr F oops",
            "stdout F two",
            "stdout P 12345678",
            "stdout P 9",
        ]
        .map(|line| format!("{TIME} {line}\n"))
        .concat();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expect);
        assert_eq!(file.lost(), 0);
    }

    #[test]
    fn lines_are_the_same_however_little_room_there_is() {
        let directory = tempfile::tempdir().unwrap();
        let text: String = (0..500)
            .map(|n| format!("{}\n", "x".repeat(n % 90)))
            .collect();
        let line = |line: &str| format!("{TIME} stdout F {line}\n");
        let expect: String = text.lines().map(line).collect();
        for room in [0, START + 1, START + 50, 1000, 100_000] {
            let path = directory.path().join(room.to_string());
            let mut file = LogFile::open(&path).unwrap();
            let mut splitter = Splitter::new(100);
            let mut room = vec![0; room];
            let mut used = 0;
            for chunk in text.as_bytes().chunks(7777) {
                used = file.feed(&mut splitter, chunk, stamp(Stream::Stdout), &mut room);
            }
            assert!(
                std::fs::read_to_string(&path).unwrap() == expect,
                "{room:?}"
            );
            assert!(used <= room.len() && (used > 0 || room.len() <= START + 50));
        }
    }

    #[test]
    fn reopening_keeps_the_old_file_when_it_fails_and_truncates_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let moved = directory.path().join("log.1");
        let mut splitter = Splitter::new(100);
        let mut file = LogFile::open(&path).unwrap();
        feed(&mut file, &mut splitter, b"1\n", Stream::Stdout);
        std::fs::rename(&path, &moved).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(file.reopen().is_err());
        feed(&mut file, &mut splitter, b"2\n", Stream::Stdout);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "kept\n").unwrap();
        file.reopen().unwrap();
        feed(&mut file, &mut splitter, b"3\n", Stream::Stdout);
        assert_eq!(std::fs::read_to_string(&moved).unwrap().lines().count(), 2);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("kept\n{TIME} stdout F 3\n"));
    }

    #[test]
    fn a_line_that_its_writers_death_left_unfinished_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let long = "x".repeat(3 * ROUND);
        let rows = [
            (String::new(), ""),
            ("a\nb\n".to_owned(), "a\nb\n"),
            ("a\nb\n2026".to_owned(), "a\nb\n"),
            ("2026".to_owned(), ""),
            (format!("a\n{long}"), "a\n"),
        ];
        for (before, after) in rows {
            std::fs::write(&path, before).unwrap();
            LogFile::resume(&path, None, &ResumedLog::default(), 0).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
        let foreign = "y".repeat(usize::try_from(LONGEST_REST).unwrap() + 1);
        std::fs::write(&path, &foreign).unwrap();
        LogFile::resume(&path, None, &ResumedLog::default(), 0).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().len(),
            foreign.len() as u64
        );
    }

    #[test]
    fn what_is_not_a_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = LogFile::open(directory.path()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EISDIR));
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(LogFile::open(&fifo).is_err());
    }

    /// A file system of 64 KiB, in a mount namespace of the test's thread.
    fn small_disk(directory: &Path) {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let options = Some("size=64k");
        mount(
            Some("tmpfs"),
            directory,
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        )
        .unwrap();
    }

    /// Has `chunk`, whole lines of 99 bytes, written `times` times to a disk that gets full, and
    /// once more when there is space again.
    fn fill_the_disk(root: &Path, chunk: &[u8], times: usize) {
        let (path, filler) = (root.join("log"), root.join("filler"));
        std::fs::write(&filler, vec![0; 32 * 1024]).unwrap();
        let mut file = LogFile::open(&path).unwrap();
        let mut splitter = Splitter::new(1000);
        for _ in 0..times {
            feed(&mut file, &mut splitter, chunk, Stream::Stdout);
        }
        assert!(file.is_losing());
        let lost = file.lost();
        std::fs::remove_file(filler).unwrap();
        feed(&mut file, &mut splitter, b"back\n", Stream::Stdout);
        assert!(!file.is_losing());
        assert_eq!(file.lost(), lost);
        let text = std::fs::read_to_string(&path).unwrap();
        let (mut content, mut marks) = (0, 0);
        for line in text.lines() {
            assert!(line.starts_with(TIME), "{line}");
            content += line.matches('x').count() as u64;
            marks += u64::from(line.contains(&format!("{lost} bytes")));
        }
        let written = (chunk.len() / 100 * 99 * times) as u64;
        assert_eq!((content + lost, marks), (written, 1));
        assert!(text.ends_with("stdout F back\n"));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_full_disk_costs_counted_bytes_and_leaves_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        std::thread::spawn(move || {
            small_disk(&root);
            let line = [vec![b'x'; 99], vec![b'\n']].concat();
            fill_the_disk(&root, &line, 600);
            fill_the_disk(&root, &line.repeat(25), 24);
        })
        .join()
        .unwrap();
    }
}
