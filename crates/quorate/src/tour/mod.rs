//! `quorate tour`: what is promised, shown with the real program. The list is the truth about what works.
//!
//! A demonstration starts this very executable on free ports in a directory of its own, does what is promised, injects the
//! failure, and shows the figure. Whatever happens, its nodes end and its directory goes.

mod balance;
mod canary;
mod consumer_crash;
mod coordinator_crash;
mod dead_backend;
mod dual_write;
mod durable;
mod exactly_once;
mod exactly_once_effect;
mod failover;
mod fenced_lock;
mod front;
mod group;
mod limits;
mod live_registry;
mod one_commit;
mod partition;
mod replay;
mod retry_storm;
mod rolling_restart;
mod split;
mod stream;
mod trio;

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use doors::resp::client::{Value, read_value, write_command};

/// How long a node of a demonstration may take to start, and an answer to come.
const PATIENCE: Duration = Duration::from_secs(15);

struct Demo {
    name: &'static str,
    promise: &'static str,
    run: fn(&Path) -> Result<(), String>,
}

const DEMOS: [Demo; 19] = [
    Demo {
        name: "durable",
        promise: "a write that was answered is never lost: kill -9 under load, five times",
        run: durable::run,
    },
    Demo {
        name: "one-commit",
        promise: "a MULTI is one entry of the log: killed at every step, both of its writes are there or neither",
        run: one_commit::run,
    },
    Demo {
        name: "failover",
        promise: "three nodes: the leader killed under load, three times; nothing that was answered is lost, writes go on by themselves",
        run: failover::run,
    },
    Demo {
        name: "partition",
        promise: "a leader that is cut off answers nothing from the past; the majority goes on, and all agree when the line is mended",
        run: partition::run,
    },
    Demo {
        name: "rolling-restart",
        promise: "all nodes are restarted in turn under load: no write fails that is asked once more, of another node, and none is lost",
        run: rolling_restart::run,
    },
    Demo {
        name: "split",
        promise: "a shard is split while clients write, and once more while its leader is killed: no answered write is lost",
        run: split::run,
    },
    Demo {
        name: "replay",
        promise: "a stream is read again from any offset and any time, also after kill -9 and when the log is long gone: the same bytes",
        run: replay::run,
    },
    Demo {
        name: "exactly-once-producer",
        promise: "an idempotent producer's records are there once and in order, though connections break and the leader is killed",
        run: exactly_once::run,
    },
    Demo {
        name: "consumer-crash",
        promise: "a consumer that dies without a word loses its partitions to the others, and no record is skipped",
        run: consumer_crash::run,
    },
    Demo {
        name: "exactly-once-effect",
        promise: "an effect and the progress of the consumer that has it are one commit: killed forty times, every sum is exact",
        run: exactly_once_effect::run,
    },
    Demo {
        name: "dual-write",
        promise: "a row here and a message there come apart when their writer dies; in one commit they cannot",
        run: dual_write::run,
    },
    Demo {
        name: "fenced-lock",
        promise: "a holder that was paused past the end of its lock writes late: it is refused, whichever way the lock was taken",
        run: fenced_lock::run,
    },
    Demo {
        name: "coordinator-crash",
        promise: "the node that drives transactions over two shards is killed in the middle: the others finish them, and no lock stands for good",
        run: coordinator_crash::run,
    },
    Demo {
        name: "limits",
        promise: "a client that asks for too much gets an answer that says so; memory stays bounded and others are served",
        run: limits::run,
    },
    Demo {
        name: "balance",
        promise: "requests spread as the route says: in turn, by weight, and away from a server that is slow",
        run: balance::run,
    },
    Demo {
        name: "dead-backend",
        promise: "a server killed under load costs no client a request; it is taken out, and in again when it is back",
        run: dead_backend::run,
    },
    Demo {
        name: "retry-storm",
        promise: "with half of the answers failing, retries make an upstream's traffic grow at most 1.2 times",
        run: retry_storm::run,
    },
    Demo {
        name: "canary",
        promise: "a new version gets its share of the users; nobody moves but by a change of weights, and back the same way",
        run: canary::run,
    },
    Demo {
        name: "live-registry",
        promise: "no request reaches an instance after its deregistration was answered, or after it became critical",
        run: live_registry::run,
    },
];

/// Lists the demonstrations or runs one; exit code 1 if the promise was broken.
pub fn run(name: Option<&str>) -> Result<ExitCode, String> {
    let Some(name) = name else {
        println!("Demonstrations with the real program, in less than 30 seconds each:\n");
        for demo in &DEMOS {
            println!("  {:<21}  {}", demo.name, demo.promise);
        }
        println!("\nRun one:  quorate tour {}", DEMOS[0].name);
        return Ok(ExitCode::SUCCESS);
    };
    let Some(demo) = DEMOS.iter().find(|demo| demo.name == name) else {
        let names: Vec<_> = DEMOS.iter().map(|demo| demo.name).collect();
        return Err(format!("there is no demonstration named {name:?}; there are {}", names.join(", ")));
    };
    println!("Promised: {}.\n", demo.promise);
    let began = Instant::now();
    let directory = Scratch::new()?;
    let done = (demo.run)(directory.path());
    drop(directory);
    let seconds = began.elapsed().as_secs_f64();
    match done {
        Ok(()) => {
            println!("\nKept, in {seconds:.1} seconds.");
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => {
            println!("\nBROKEN after {seconds:.1} seconds: {why}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// A directory that goes with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, String> {
        let unique = host::clock::seed();
        let path = std::env::temp_dir().join(format!("quorate-tour-{}-{unique:016x}", std::process::id()));
        std::fs::create_dir(&path)
            .map_err(|error| format!("{} cannot be made: {error}; set TMPDIR", path.display()))?;
        Ok(Scratch(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A node in a process of its own, killed when its value goes.
struct Server {
    child: Child,
    redis: SocketAddr,
    admin: SocketAddr,
    gateway: SocketAddr,
    consul: SocketAddr,
    kafka: SocketAddr,
    /// How long the start took.
    took: Duration,
}

impl Server {
    /// Starts a node on free ports and waits until it serves.
    fn start(data: &Path, flags: &[&str], variables: &[(&str, &str)]) -> Result<Server, String> {
        let began = Instant::now();
        let program = std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
        let mut command = Command::new(program);
        command.args([
            "up",
            "--redis-port",
            "0",
            "--admin-port",
            "0",
            "--consul-port",
            "0",
            "--gateway-port",
            "0",
            "--kafka-port",
            "0",
            "--etcd-port",
            "0",
            "--dns-port",
            "0",
            "--print-ready",
            "--exit-with-parent",
            "--data",
        ]);
        let peer: &[&str] = if flags.contains(&"--peer-bind") { &[] } else { &["--peer-port", "0"] };
        command
            .arg(data)
            .args(peer)
            .args(flags)
            .envs(variables.iter().copied())
            .env_remove(crate::config::PASSWORD_VARIABLE);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("the node cannot be started: {error}"))?;
        let (out, errors) = (child.stdout.take().expect("it is piped"), child.stderr.take().expect("it is piped"));
        let none = SocketAddr::from(([127, 0, 0, 1], 0));
        let (redis, admin, gateway, consul, kafka) = (none, none, none, none, none);
        let mut server = Server { child, redis, admin, gateway, consul, kafka, took: Duration::ZERO };
        let (sender, lines) = mpsc::channel();
        // The thread ends with the child's output.
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let complaints = std::thread::spawn(move || io::read_to_string(errors).unwrap_or_default());
        let deadline = began + PATIENCE;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(addresses) = line.strip_prefix("ready ") {
                        let address = |door: &str| {
                            let mut doors = addresses.split(' ').filter_map(|word| word.split_once('='));
                            let found = doors.find(|(name, _)| *name == door).and_then(|(_, at)| at.parse().ok());
                            found.ok_or_else(|| format!("the node says {line:?}"))
                        };
                        server.redis = address("redis")?;
                        server.admin = address("admin")?;
                        server.gateway = address("gateway")?;
                        server.consul = address("consul")?;
                        server.kafka = address("kafka")?;
                        server.took = began.elapsed();
                        return Ok(server);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(format!("the node did not start within {PATIENCE:?}"));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    server.kill();
                    let said = complaints.join().unwrap_or_default();
                    return Err(format!("the node did not start: {}", said.trim()));
                }
            }
        }
    }

    /// SIGTERM.
    fn terminate(&self) -> Result<(), String> {
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let told = id.map(|id| rustix::process::kill_process(id, rustix::process::Signal::TERM));
        told.and_then(Result::ok).ok_or_else(|| "the node cannot be told to stop".into())
    }

    /// Waits until it has ended by itself.
    fn wait_end(&mut self, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("the node ended with {status}")),
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!("the node did not stop within {patience:?}"))
    }

    /// kill -9, and waits until it is gone.
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn connect(&self) -> Result<Connection, String> {
        Connection::open(self.redis).map_err(|error| format!("the node at {} cannot be reached: {error}", self.redis))
    }

    /// The most memory that was ever resident, bytes; 0 where the system does not tell.
    fn peak_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0) << 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A client's connection.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Connection> {
        Connection::open_patient(address, PATIENCE)
    }

    fn open_patient(address: SocketAddr, patience: Duration) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Connection(BufReader::new(stream)))
    }

    fn send(&mut self, words: &[&[u8]]) -> io::Result<()> {
        let mut bytes = Vec::new();
        write_command(words, &mut bytes);
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    fn read(&mut self) -> io::Result<Value> {
        read_value(&mut self.0)
    }

    fn ask(&mut self, words: &[&[u8]]) -> io::Result<Value> {
        self.send(words)?;
        self.read()
    }

    /// Like [`Connection::ask`] where the connection must not break.
    fn must(&mut self, words: &[&[u8]]) -> Result<Value, String> {
        let name = String::from_utf8_lossy(words[0]).into_owned();
        match self.ask(words) {
            Ok(Value::Error(text)) => Err(format!("{name} was answered {}", String::from_utf8_lossy(&text))),
            Ok(value) => Ok(value),
            Err(error) => Err(format!("{name} was not answered: {error}")),
        }
    }
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
