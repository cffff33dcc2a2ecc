//! Where the processes of a cluster live: on loopback, or each in a namespace of its own behind a switch.

use crate::net::space::{Pass, ends_with_us};
use crate::net::sync::{self, Syncs};
use crate::net::{Net, unavailable};
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The place of a cluster's processes and of its clients.
pub struct Ground {
    net: Option<Net>,
    places: usize,
}

impl Ground {
    /// All on 127.0.0.1.
    pub fn loopback() -> Ground {
        Ground { net: None, places: 0 }
    }

    /// So many namespaces for servers and one for clients. The error says why that cannot be here.
    pub fn network(places: usize, seed: u64) -> Result<Ground, String> {
        unavailable().map_or(Ok(()), Err)?;
        Ok(Ground { net: Some(Net::new(places + 1, seed)?), places })
    }

    /// The network, if it is one.
    pub fn net(&self) -> Option<&Net> {
        self.net.as_ref()
    }

    /// How many places there are; nothing: any number.
    pub fn places(&self) -> Option<usize> {
        self.net.as_ref().map(|_| self.places)
    }

    /// The address of place `at`.
    pub fn ip(&self, at: usize) -> String {
        if self.net.is_some() { Net::ip(at).to_string() } else { "127.0.0.1".into() }
    }

    /// Runs `job` where clients are. Threads that it starts are there too.
    pub fn visit<T: Send>(&self, job: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
        let Some(net) = &self.net else { return job() };
        let pass = net.spaces[self.places].pass()?;
        std::thread::scope(|scope| {
            let visit = scope.spawn(|| pass.enter().and_then(|()| job()));
            visit.join().map_err(|_| "a client panicked".to_owned())?
        })
    }

    /// What lets a thread go where clients are; nothing, if they are everywhere.
    pub fn pass(&self) -> Result<Option<Pass>, String> {
        self.net.as_ref().map(|net| net.spaces[self.places].pass()).transpose()
    }

    /// Starts a program at place `at`, its output appended to `log`; with `syncs`, they decide what its fsyncs do.
    pub fn spawn(
        &self,
        at: usize,
        mut command: Command,
        log: &Path,
        syncs: Option<&Arc<Syncs>>,
    ) -> Result<Process, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", log.display());
        let out = OpenOptions::new().create(true).append(true).open(log).map_err(failed)?;
        let from = out.metadata().map_err(failed)?.len();
        let err = out.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        if let Some(syncs) = syncs {
            sync::prepare(&mut command, syncs.steps);
        }
        let child = match &self.net {
            Some(net) => net.spaces[at].spawn(command)?,
            None => {
                ends_with_us(&mut command);
                let name = command.get_program().to_string_lossy().into_owned();
                command.spawn().map_err(|error| format!("{name}: {error}"))?
            }
        };
        let process = Process { child, log: log.to_owned(), from };
        if let Some(syncs) = syncs {
            sync::attend(&process.child, Arc::clone(syncs))?;
        }
        Ok(process)
    }
}

/// A program that runs; killed when dropped.
pub struct Process {
    child: Child,
    log: std::path::PathBuf,
    from: u64,
}

impl Process {
    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said since it was started.
    pub fn said(&self) -> String {
        let whole = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&whole[(self.from as usize).min(whole.len())..]).into_owned()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until `done`; the error tells what the program said.
    pub fn wait_until(&mut self, limit: Duration, mut done: impl FnMut(&Process) -> bool) -> Result<(), String> {
        let start = Instant::now();
        while !done(self) {
            let said = |process: &Process| crate::shell::tail(&process.said(), 25);
            if let Some(status) = self.ended() {
                return Err(format!("it ended ({status}) instead of serving; it said:\n{}", said(self)));
            }
            if start.elapsed() > limit {
                return Err(format!("not ready within {} s; it said:\n{}", limit.as_secs(), said(self)));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits so long for its end.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        self.signal(rustix::process::Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            std::thread::sleep(LOOK);
        }
        Err(format!("it did not end within {} s of SIGTERM", limit.as_secs()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
