//! One boot of the machine: the processes around it, and what goes in and comes out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::shell::{command, run};

/// Where Debian 12, and later ones, put the program that shares directories.
const SHARERS: &[&str] = &["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];

const KERNEL: &str = "root=/dev/vda rw quiet console=ttyS0 panic=-1 systemd.show_status=0 mitigations=off audit=0 \
                      nowatchdog random.trust_cpu=on systemd.unit=vm-job.service";

/// A machine to boot.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    /// What [`super::image::ready`] made.
    pub(super) image: &'a Path,
    /// Directories that are at the same place in the machine.
    pub(super) shares: &'a [PathBuf],
    /// In MiB.
    pub(super) memory: u32,
    pub(super) minutes: u64,
    /// More words for the kernel's command line.
    pub(super) kernel: &'a str,
}

impl Machine<'_> {
    /// Boots, runs `script` by a shell with its output on the terminal, and returns its exit status. What the machine
    /// needs meanwhile lies in a new directory below `place`.
    ///
    /// # Errors
    /// When it does not boot or takes too long; the end of its console says why.
    pub(super) fn run(&self, place: &Path, script: &str) -> Result<i32> {
        let directory = place.join(format!("run-{}", std::process::id()));
        fs::create_dir_all(directory.join("job"))?;
        let status = self.run_in(&directory, script);
        fs::remove_dir_all(&directory)?;
        status
    }

    fn run_in(&self, directory: &Path, script: &str) -> Result<i32> {
        let job = directory.join("job");
        fs::write(job.join("script"), script)?;
        let mut table = String::new();
        let mut sharing = vec![Share::start("job", &job, directory)?];
        for (number, path) in self.shares.iter().enumerate() {
            let tag = format!("share{number}");
            table.push_str(&format!("{tag} {}\n", path.display()));
            sharing.push(Share::start(&tag, path, directory)?);
        }
        fs::write(job.join("shares"), table)?;
        let mut qemu = self.qemu(directory);
        for share in &sharing {
            share.attach(&mut qemu);
        }
        let ended = run(&mut qemu);
        match fs::read_to_string(job.join("status")) {
            Ok(status) => status.trim().parse().context("the script's exit status"),
            Err(_none) => {
                let console = fs::read_to_string(directory.join("console")).unwrap_or_default();
                let lines: Vec<_> = console.lines().collect();
                let tail = lines[lines.len().saturating_sub(30)..].join("\n");
                bail!("the machine gave no exit status ({ended:?}); its console ends:\n{tail}")
            }
        }
    }

    fn qemu(&self, directory: &Path) -> Command {
        let mut qemu = command("timeout");
        qemu.args([
            "--foreground",
            &format!("{}m", self.minutes),
            "qemu-system-x86_64",
        ]);
        qemu.env("TMPDIR", directory).stdin(Stdio::null());
        qemu.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        let mut kernel = format!("{KERNEL} {}", self.kernel);
        if can_virtualize() {
            qemu.args(["-accel", "kvm", "-cpu", "host"]);
        } else {
            // One thread emulates both processors: with one each, QEMU 7.2 loses one of them now and then. AVX is
            // slower than SSE here, and with addresses at random each exec has all its code translated anew.
            qemu.args([
                "-accel",
                "tcg,thread=single,tb-size=512",
                "-cpu",
                "Nehalem,+rdrand",
            ]);
            kernel.push_str(
                " norandmaps nokaslr tsc=reliable no_timer_check rcupdate.rcu_expedited=1",
            );
        }
        // Shares need memory that their servers see too.
        qemu.args(["-machine", "q35,memory-backend=memory", "-smp", "2"]);
        qemu.args(["-m", &self.memory.to_string(), "-object"]);
        qemu.arg(format!(
            "memory-backend-memfd,id=memory,share=on,size={}M",
            self.memory
        ));
        let path = |name: &str| self.image.join(name);
        qemu.arg("-kernel")
            .arg(path("kernel"))
            .arg("-initrd")
            .arg(path("initrd"));
        qemu.args(["-append", &kernel, "-drive"]);
        qemu.arg(format!(
            "file={},format=raw,if=none,id=disk,snapshot=on,cache=unsafe",
            path("disk").display()
        ));
        qemu.args(["-device", "virtio-blk-pci,drive=disk", "-serial"]);
        qemu.arg(format!("file:{}", directory.join("console").display()));
        qemu.args([
            "-chardev",
            "file,id=output,path=/dev/stdout,append=on",
            "-device",
            "virtio-serial-pci",
        ]);
        qemu.args(["-device", "virtserialport,chardev=output,name=output"]);
        qemu
    }
}

/// Whether the processor's own virtualization is at hand; a guest that is offered `/dev/kvm` without it boots no
/// stock kernel.
fn can_virtualize() -> bool {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_flag = processor
        .split_whitespace()
        .any(|word| word == "vmx" || word == "svm");
    has_flag && fs::File::options().write(true).open("/dev/kvm").is_ok()
}

/// A server of one directory, ended on drop.
#[derive(Debug)]
struct Share {
    process: Child,
    tag: String,
    socket: PathBuf,
}

impl Share {
    fn start(tag: &str, path: &Path, directory: &Path) -> Result<Self> {
        let program = SHARERS
            .iter()
            .find(|place| Path::new(place).exists())
            .context("virtiofsd is not installed")?;
        let socket = directory.join(format!("{tag}.socket"));
        let log = fs::File::create(directory.join(format!("{tag}.log")))?;
        let process = command(program)
            .arg(format!("--socket-path={}", socket.display()))
            .args(["-o", &format!("source={}", path.display())])
            .args(["-o", "cache=auto", "-o", "xattr", "--thread-pool-size=0"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let share = Self {
            process,
            tag: tag.to_owned(),
            socket,
        };
        let end = Instant::now() + Duration::from_secs(10);
        while !share.socket.exists() {
            ensure!(
                Instant::now() < end,
                "{program} does not serve {}",
                path.display()
            );
            std::thread::yield_now();
        }
        Ok(share)
    }

    fn attach(&self, qemu: &mut Command) {
        let Self { tag, socket, .. } = self;
        qemu.arg("-chardev");
        qemu.arg(format!("socket,id={tag},path={}", socket.display()));
        qemu.arg("-device");
        qemu.arg(format!(
            "vhost-user-fs-pci,chardev={tag},tag={tag},queue-size=1024"
        ));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _status = self.process.wait();
    }
}
