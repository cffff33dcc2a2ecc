//! What fsync and fdatasync of a program do: take longer, or fail; and the death of a program at its Nth durable step. By seccomp's notifications
//! to user space (seccomp_unotify(2)): the kernel asks us at each such call, so it works for every program as it is shipped, also for those in Go,
//! which a preloaded library cannot reach.

use std::collections::BinaryHeap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The descriptor under which the child keeps its end until we have taken it.
const LISTENER: RawFd = 199;
/// How often the thread looks whether the program is gone.
const LOOK: Duration = Duration::from_millis(100);

/// `_IOWR('!', 0, struct seccomp_notif)` and `_IOWR('!', 1, struct seccomp_notif_resp)`.
const NOTIF_RECV: u64 = 0xc050_2100;
const NOTIF_SEND: u64 = 0xc018_2101;

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`
const WAIT_KILLABLE: libc::c_ulong = 1 << 5;

/// Settings that may be changed while the program runs, and what was counted.
#[derive(Default)]
pub struct Syncs {
    /// Microseconds that each call takes longer.
    pub delay_us: AtomicU64,
    /// So many of the next calls fail with EIO, without being done.
    pub fail: AtomicU64,
    /// Calls are answered as done without being done: a disk that lies.
    pub lies: AtomicBool,
    /// Calls so far.
    pub count: AtomicU64,
    /// Calls that were made to fail.
    pub failed: AtomicU64,
    /// All calls are asked about that change files ([`STEPS`]), not syncs alone.
    pub steps: bool,
    /// The program is killed at that many more calls, in place of the last of them; 0: it lives.
    pub dies: AtomicU64,
}

/// Calls that change a file, a name, or what is durable; making a file is one more.
const STEPS: &[libc::c_long] = &[
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_sync_file_range,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

impl Syncs {
    /// Each call takes so much longer.
    pub fn slow(span: Duration) -> Arc<Syncs> {
        let syncs = Syncs::default();
        syncs.delay_us.store(span.as_micros() as u64, Ordering::Relaxed);
        Arc::new(syncs)
    }

    /// Every durable step is asked about.
    pub fn of_steps() -> Syncs {
        Syncs { steps: true, ..Syncs::default() }
    }
}

/// The program that `command` starts asks at every fsync and fdatasync, or with `steps` at each durable step. [`attend`] must be called for the
/// child, or such calls hang.
#[allow(unsafe_code)]
pub fn prepare(command: &mut Command, steps: bool) {
    let op = |code: u32, k: u32, (yes, no): (u8, u8)| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    let load = |at| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, (0, 0));
    let ret = |what| op(libc::BPF_RET | libc::BPF_K, what, (0, 0));
    let mut calls = vec![libc::SYS_fsync, libc::SYS_fdatasync];
    if steps {
        calls.extend(STEPS);
    }
    // The number of the system call stands first in `struct seccomp_data`. Whoever is asked about jumps to the last line.
    let mut program = vec![load(0)];
    let behind = if steps { 3 } else { 0 };
    for (at, call) in calls.iter().enumerate() {
        let last = (calls.len() - at + behind) as u8;
        program.push(op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *call as u32, (last, 0)));
    }
    if steps {
        // openat that may make a file: its flags are the third argument, whose lower half stands at byte 32.
        program.push(op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_openat as u32, (0, 2)));
        program.push(load(32));
        program.push(op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, libc::O_CREAT as u32, (1, 0)));
    }
    program.push(ret(libc::SECCOMP_RET_ALLOW));
    program.push(ret(libc::SECCOMP_RET_USER_NOTIF));
    let install = move || {
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // A signal that does not kill leaves a call alone that was asked about (Linux 5.19): Go's runtime sends many.
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE;
        // SAFETY: system calls that allocate nothing; `filter` and what it points to live as long as the call.
        let fd = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter)
        };
        // SAFETY: duplicates a descriptor of our own to a number that nobody here uses.
        if fd < 0 || unsafe { libc::dup2(fd as RawFd, LISTENER) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: what runs between fork and exec makes system calls only.
    unsafe { command.pre_exec(install) };
}

/// Answers the child's questions by `syncs` until it is gone, on a thread of its own.
#[allow(unsafe_code)]
pub fn attend(child: &Child, syncs: Arc<Syncs>) -> Result<(), String> {
    let failed = |what: &str| format!("slow syncs: {what}: {}", std::io::Error::last_os_error());
    // SAFETY: plain system calls on a process of our own; what they return is checked before it is owned.
    let listener = unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, child.id(), 0);
        if process < 0 {
            return Err(failed("pidfd_open"));
        }
        let process = OwnedFd::from_raw_fd(process as RawFd);
        let fd = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), LISTENER, 0);
        if fd < 0 {
            return Err(failed("pidfd_getfd"));
        }
        OwnedFd::from_raw_fd(fd as RawFd)
    };
    let child = rustix::process::Pid::from_child(child);
    let thread = std::thread::Builder::new().name("syncs".into()).spawn(move || answer(&listener, child, &syncs));
    thread.map(drop).map_err(|error| format!("slow syncs: {error}"))
}

/// When which question is answered; the heap gives out the soonest.
type Due = std::cmp::Reverse<(Instant, u64)>;

#[allow(unsafe_code)]
fn answer(listener: &OwnedFd, child: rustix::process::Pid, syncs: &Syncs) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut waiting: BinaryHeap<Due> = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while waiting.peek().is_some_and(|next| next.0.0 <= now) {
            let Some(std::cmp::Reverse((_, id))) = waiting.pop() else { break };
            reply(listener, id, None);
        }
        let wait = waiting.peek().map_or(LOOK, |next| next.0.0.saturating_duration_since(now).min(LOOK));
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        if !poll(&mut fds, Some(&wait)).is_ok_and(|count| count > 0) {
            continue;
        }
        if fds[0].revents().contains(PollFlags::HUP) {
            return;
        }
        // SAFETY: all bytes 0 is a value of the structure, which is what the kernel wants to be given.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open, and the request writes one such structure.
        if unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV as _, &raw mut asked) } != 0 {
            continue;
        }
        syncs.count.fetch_add(1, Ordering::Relaxed);
        let dies = syncs.dies.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if dies == Ok(1) {
            // Unanswered: it dies in the call, which is not done.
            let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
            continue;
        }
        let fail = syncs.fail.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if fail.is_ok() {
            syncs.failed.fetch_add(1, Ordering::Relaxed);
            reply(listener, asked.id, Some(-libc::EIO));
        } else if syncs.lies.load(Ordering::Relaxed) {
            reply(listener, asked.id, Some(0));
        } else {
            let delay = Duration::from_micros(syncs.delay_us.load(Ordering::Relaxed));
            if delay.is_zero() {
                reply(listener, asked.id, None);
            } else {
                waiting.push(std::cmp::Reverse((Instant::now() + delay, asked.id)));
            }
        }
    }
}

/// Lets the call go on, or ends it undone with this error (0: it is told that it was done).
#[allow(unsafe_code)]
fn reply(listener: &OwnedFd, id: u64, end: Option<i32>) {
    let flags = if end.is_none() { libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32 } else { 0 };
    let answer = libc::seccomp_notif_resp { id, val: 0, error: end.unwrap_or(0), flags };
    // SAFETY: the descriptor is open, and the request reads one such structure. A caller that is gone is an error of no interest.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND as _, &raw const answer) };
}

#[cfg(test)]
mod tests {
    use super::{Syncs, attend, prepare};
    use std::process::{Command, Stdio};
    use std::sync::atomic::Ordering;
    use std::time::{Duration, Instant};

    /// `dd` that syncs once at its end, under `syncs`.
    fn dd(syncs: &std::sync::Arc<Syncs>) -> (bool, Duration) {
        let path = std::env::temp_dir().join(format!("xtask-syncs-{}", std::process::id()));
        let mut command = Command::new("dd");
        command.args(["if=/dev/zero", "bs=512", "count=1", "conv=fdatasync"]).arg(format!("of={}", path.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        prepare(&mut command, syncs.steps);
        let start = Instant::now();
        let mut child = command.spawn().expect("dd starts");
        attend(&child, std::sync::Arc::clone(syncs)).expect("seccomp works");
        let fine = child.wait().expect("dd ends").success();
        let _ = std::fs::remove_file(path);
        (fine, start.elapsed())
    }

    #[test]
    fn a_program_dies_at_its_nth_step() {
        let path = std::env::temp_dir().join(format!("xtask-steps-{}", std::process::id()));
        let (old, new) = (path.with_extension("old"), path.with_extension("new"));
        // It makes a file and renames it: two steps.
        let shell = |syncs: &std::sync::Arc<Syncs>| {
            let mut command = Command::new("sh");
            command.args(["-c", ": > \"$0\"; mv \"$0\" \"$1\"", &old.to_string_lossy(), &new.to_string_lossy()]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            prepare(&mut command, syncs.steps);
            let mut child = command.spawn().expect("sh starts");
            attend(&child, std::sync::Arc::clone(syncs)).expect("seccomp works");
            child.wait().expect("sh ends").success()
        };
        let syncs = std::sync::Arc::new(Syncs::of_steps());
        syncs.dies.store(1, Ordering::Relaxed);
        assert!(!shell(&syncs) && !old.exists() && !new.exists(), "it made the file");
        assert!(shell(&syncs) && new.exists() && !old.exists());
        assert!(syncs.count.load(Ordering::Relaxed) >= 3);
        let _ = std::fs::remove_file(new);
    }

    #[test]
    fn a_sync_takes_longer_or_fails() {
        let syncs = Syncs::slow(Duration::from_millis(300));
        let (fine, took) = dd(&syncs);
        assert!(fine && took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{fine} {took:?}");
        syncs.delay_us.store(0, Ordering::Relaxed);
        syncs.fail.store(1, Ordering::Relaxed);
        assert!(!dd(&syncs).0, "dd must say that the sync failed");
        assert_eq!(syncs.failed.load(Ordering::Relaxed), 1);
        assert!(dd(&syncs).0);
    }
}
