//! One namespace: a thread that lives in it and does what is asked of it there.

use super::Net;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

type Job = Box<dyn FnOnce() + Send>;

/// A network and mount namespace. What it runs ends with it.
pub struct Space {
    name: String,
    jobs: mpsc::Sender<Job>,
    net: File,
}

/// `struct ifreq` as TUNSETIFF reads it: the name, the flags, and room up to the structure's size.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: i16,
    room: [u8; 22],
}

/// `_IOW('T', 202, int)`
const TUNSETIFF: u64 = 0x4004_54ca;
/// Ethernet frames.
const IFF_TAP: i16 = 0x0002;
/// Frames and nothing before them.
const IFF_NO_PI: i16 = 0x1000;

/// The tap's name in every namespace.
const TAP: &str = "tap0";

/// Ports of a switch at most.
const PORTS_MAX: usize = 16;

/// Runs a program to its end and wants success.
pub fn command(program: &str, args: &[&str]) -> Result<(), String> {
    let out = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {} {}", args.join(" "), out.status, String::from_utf8_lossy(&out.stderr).trim()))
}

impl Space {
    /// A new one, with nothing in it but loopback.
    pub fn new(name: &str) -> Result<Space, String> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _ = tell.send(enter_new());
            for job in todo {
                job();
            }
        });
        thread.map_err(|error| format!("{name}: {error}"))?;
        let net = told.recv().map_err(|_| format!("{name}: its thread ended"))??;
        Ok(Space { name: name.to_owned(), jobs, net })
    }

    /// Does `job` in the namespace and waits for it.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        let (tell, told) = mpsc::channel();
        let job = Box::new(move || {
            let _ = tell.send(job());
        });
        self.jobs.send(job).map_err(|_| format!("{}: its thread is gone", self.name))?;
        told.recv().map_err(|_| format!("{}: the job panicked", self.name))
    }

    /// Starts a program in the namespace. The kernel kills it when the namespace's thread ends, however that comes.
    pub fn spawn(&self, mut command: Command) -> Result<Child, String> {
        let name = self.name.clone();
        self.run(move || {
            ends_with_us(&mut command);
            command.spawn().map_err(|error| format!("{name}: {}: {error}", command.get_program().to_string_lossy()))
        })?
    }

    /// Another thread enters the network (not the mounts): sockets that it opens from now on are here.
    pub fn pass(&self) -> Result<Pass, String> {
        self.net.try_clone().map(Pass).map_err(|error| format!("{}: {error}", self.name))
    }

    /// The namespace's tap, with its address and up.
    pub fn tap(&self, port: usize) -> Result<File, String> {
        self.run(move || tap(port))?
    }
}

/// The right to enter a namespace's network.
pub struct Pass(File);

impl Pass {
    /// The calling thread is in that network from now on, until its end.
    pub fn enter(&self) -> Result<(), String> {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| format!("entering a network namespace: {error}"))
    }
}

/// The program that `command` starts is killed when the thread that starts it ends.
#[allow(unsafe_code)]
pub fn ends_with_us(command: &mut Command) {
    // SAFETY: one system call without allocation or locks, which is what may be done between fork and exec.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            Ok(())
        })
    };
}

#[allow(unsafe_code)]
fn enter_new() -> Result<File, String> {
    let flags = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    // SAFETY: descriptors stay shared; only this thread's network, mounts and working directory become its own.
    unsafe { unshare_unsafe(flags) }.map_err(|error| format!("a namespace: {error}"))?;
    // Or what is mounted here would show in the whole machine, and stay.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| format!("private mounts: {error}"))?;
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    command("ip", &["link", "set", "lo", "up"])?;
    File::open("/proc/thread-self/ns/net").map_err(|error| format!("the namespace's descriptor: {error}"))
}

#[allow(unsafe_code)]
fn tap(port: usize) -> Result<File, String> {
    let path = "/dev/net/tun";
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let file = file.map_err(|error| format!("{path}: {error}"))?;
    let mut request = Request { name: [0; 16], flags: IFF_TAP | IFF_NO_PI, room: [0; 22] };
    request.name[..TAP.len()].copy_from_slice(TAP.as_bytes());
    // SAFETY: the descriptor is open for the whole call, and this request reads and writes one `ifreq`, which `request` is in size and layout.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) };
    if done != 0 {
        return Err(format!("{path}: TUNSETIFF: {}", std::io::Error::last_os_error()));
    }
    let mut lines = format!(
        "link set {TAP} address {}\naddr add {}/24 dev {TAP}\nlink set {TAP} up\n",
        hardware(port),
        Net::ip(port)
    );
    // Everybody knows everybody's hardware address: one that must be asked for would make of a cut in one direction one in both.
    for other in (0..PORTS_MAX).filter(|other| *other != port) {
        lines += &format!("neigh add {} lladdr {} dev {TAP} nud permanent\n", Net::ip(other), hardware(other));
    }
    batch(&lines)?;
    Ok(file)
}

/// Runs many commands of `ip` at once.
fn batch(lines: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let at = |error: std::io::Error| format!("ip -batch: {error}");
    let mut child = command.spawn().map_err(at)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes()).map_err(at)?;
    }
    let out = child.wait_with_output().map_err(at)?;
    if out.status.success() {
        Ok(())
    } else {
        Err(format!("ip -batch: {}", String::from_utf8_lossy(&out.stderr).trim()))
    }
}

/// The hardware address of a port: its last byte is the port.
fn hardware(port: usize) -> String {
    format!("02:71:75:6f:72:{port:02x}")
}
