//! `cargo xtask clients`: real clients of Redis, Consul, Kafka and etcd against a running server, each a script in `tests/clients/`.
//!
//! ```text
//! cargo xtask clients [--port P] [--consul-port P] [--kafka-port P] [--etcd-port P] [--cluster-port P --admin-port P] [--host H] [--only NAME,NAME]
//!                     [--called WORD]
//! ```
//!
//! Environments are made once under `.tools/` (not in git) from pinned lists: `requirements-*.txt` by pip, `package-lock.json` by npm. Each
//! script prints what it did into `.tools/logs/NAME.log` (`NAME-WORD.log` with `--called`), here it is one line. What cannot run here is skipped with its reason; with `CI=true`
//! in the environment a skip is a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a script runs in.
#[derive(Clone, Copy)]
enum Runtime {
    /// Only Python's own library.
    Python,
    /// The environment of this requirements file.
    Venv(&'static str),
    Node,
}

/// One script.
struct Script {
    name: &'static str,
    file: &'static str,
    runtime: Runtime,
    seconds_max: u64,
    door: Door,
}

/// Which door a script talks to.
#[derive(Clone, Copy, PartialEq)]
enum Door {
    Redis,
    Consul,
    Kafka,
    Etcd,
    /// The Redis door for clients of Redis Cluster; the script is told the admin door's port too.
    Cluster,
    /// The Redis door; the script is told the Kafka door's port too.
    Both,
}

const SCRIPTS: &[Script] = &[
    Script { name: "redis-cli", file: "redis_cli.py", runtime: Runtime::Python, seconds_max: 60, door: Door::Redis },
    Script {
        name: "redis-benchmark",
        file: "redis_benchmark.py",
        runtime: Runtime::Python,
        seconds_max: 60,
        door: Door::Redis,
    },
    Script {
        name: "redis-py-5",
        file: "redis_py.py",
        runtime: Runtime::Venv("redis5"),
        seconds_max: 60,
        door: Door::Redis,
    },
    Script {
        name: "redis-py-8",
        file: "redis_py.py",
        runtime: Runtime::Venv("redis8"),
        seconds_max: 60,
        door: Door::Redis,
    },
    Script {
        name: "redis-users",
        file: "redis_users.py",
        runtime: Runtime::Venv("redis8"),
        seconds_max: 60,
        door: Door::Redis,
    },
    // Out of a Debian's redis-server and into one, by a node of its own.
    Script {
        name: "redis-import",
        file: "redis_import.py",
        runtime: Runtime::Venv("redis8"),
        seconds_max: 120,
        door: Door::Redis,
    },
    Script {
        name: "redis-py-cluster",
        file: "redis_cluster.py",
        runtime: Runtime::Venv("redis8"),
        seconds_max: 90,
        door: Door::Cluster,
    },
    Script { name: "ioredis", file: "ioredis.mjs", runtime: Runtime::Node, seconds_max: 60, door: Door::Redis },
    Script { name: "rq", file: "rq_test.py", runtime: Runtime::Venv("rq"), seconds_max: 60, door: Door::Redis },
    Script {
        name: "celery",
        file: "celery_test.py",
        runtime: Runtime::Venv("redis5"),
        seconds_max: 90,
        door: Door::Redis,
    },
    Script {
        name: "py-consul",
        file: "consul_py.py",
        runtime: Runtime::Venv("consul"),
        seconds_max: 180,
        door: Door::Consul,
    },
    Script {
        name: "python-consul",
        file: "consul_py.py",
        runtime: Runtime::Venv("consul1"),
        seconds_max: 180,
        door: Door::Consul,
    },
    Script { name: "kcat", file: "kafka_kcat.py", runtime: Runtime::Python, seconds_max: 90, door: Door::Kafka },
    Script { name: "kafka-txn2", file: "kafka_txn2.py", runtime: Runtime::Python, seconds_max: 60, door: Door::Kafka },
    Script {
        name: "kafka-python",
        file: "kafka_py.py",
        runtime: Runtime::Venv("kafka"),
        seconds_max: 180,
        door: Door::Kafka,
    },
    Script {
        name: "confluent-kafka",
        file: "kafka_confluent.py",
        runtime: Runtime::Venv("kafka"),
        seconds_max: 240,
        door: Door::Kafka,
    },
    Script {
        name: "aiokafka",
        file: "kafka_aio.py",
        runtime: Runtime::Venv("kafka"),
        seconds_max: 120,
        door: Door::Kafka,
    },
    Script {
        name: "topics-as-streams",
        file: "topic_streams.py",
        runtime: Runtime::Venv("topics"),
        seconds_max: 240,
        door: Door::Both,
    },
    Script { name: "etcdctl", file: "etcdctl.py", runtime: Runtime::Python, seconds_max: 120, door: Door::Etcd },
    Script {
        name: "python-etcd3",
        file: "etcd_py.py",
        runtime: Runtime::Venv("etcd"),
        seconds_max: 120,
        door: Door::Etcd,
    },
    Script {
        name: "etcd-differential",
        file: "etcd_differential.py",
        runtime: Runtime::Venv("etcd"),
        seconds_max: 180,
        door: Door::Etcd,
    },
    Script { name: "npm-consul", file: "consul_node.mjs", runtime: Runtime::Node, seconds_max: 60, door: Door::Consul },
];

/// By this exit code a script says that it cannot run here.
const SKIPPED: i32 = 77;

/// How a script ended.
enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

/// Entry of `cargo xtask clients`.
pub fn run(args: &[String]) -> Result<(), String> {
    let mut host = "127.0.0.1".to_owned();
    let mut port = None;
    let mut consul_port = None;
    let mut kafka_port = None;
    let mut etcd_port = None;
    let mut cluster_port = None;
    let mut admin_port = String::new();
    let mut called = String::new();
    let mut only: Option<Vec<String>> = None;
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--host" => host = value()?,
            "--port" => port = Some(value()?),
            "--consul-port" => consul_port = Some(value()?),
            "--kafka-port" => kafka_port = Some(value()?),
            "--etcd-port" => etcd_port = Some(value()?),
            "--cluster-port" => cluster_port = Some(value()?),
            "--admin-port" => admin_port = value()?,
            "--called" => called = format!("-{}", value()?),
            "--only" => only = Some(value()?.split(',').map(str::to_owned).collect()),
            _ => return Err(format!("clients does not know {flag}")),
        }
    }
    if let Some(unknown) = only.iter().flatten().find(|name| !SCRIPTS.iter().any(|script| script.name == **name)) {
        let known: Vec<_> = SCRIPTS.iter().map(|script| script.name).collect();
        return Err(format!("--only: no client {unknown:?}; there are {}", known.join(", ")));
    }
    let asked = Asked { host, port, consul_port, kafka_port, etcd_port, cluster_port, admin_port, called };
    let wanted = SCRIPTS.iter().filter(|script| {
        only.as_ref().map_or(script.door != Door::Cluster || asked.cluster_port.is_some(), |only| {
            only.iter().any(|name| name == script.name)
        })
    });
    // Consul's clients mostly wait for time to pass (a minute at least until a critical service is taken away): others play meanwhile.
    let (patient, others): (Vec<_>, Vec<_>) = wanted.partition(|script| script.door == Door::Consul);
    let play_all = |scripts: Vec<&Script>| -> Vec<&'static str> {
        scripts.into_iter().filter(|script| !asked.is_content(script)).map(|script| script.name).collect()
    };
    let failed = std::thread::scope(|scope| {
        let patient = scope.spawn(|| play_all(patient));
        let mut failed = play_all(others);
        failed.extend(patient.join().expect("no script panics"));
        failed
    });
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

/// What is tried, and where it listens.
struct Asked {
    host: String,
    port: Option<String>,
    consul_port: Option<String>,
    kafka_port: Option<String>,
    etcd_port: Option<String>,
    cluster_port: Option<String>,
    admin_port: String,
    called: String,
}

impl Asked {
    /// Plays a script and says how it ended. False where it failed, or was skipped and may not be.
    fn is_content(&self, script: &Script) -> bool {
        let (start, name) = (Instant::now(), format!("{}{}", script.name, self.called));
        let outcome = self.play(script, &name);
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Outcome::Passed => println!("{name:21} ok ({seconds:.1} s)"),
            Outcome::Skipped(reason) => {
                println!("{name:21} skipped: {reason}");
                return !std::env::var("CI").is_ok_and(|ci| ci == "true");
            }
            Outcome::Failed(reason) => {
                println!("{name:21} FAILED ({seconds:.1} s)\n{reason}");
                return false;
            }
        }
        true
    }

    fn play(&self, script: &Script, name: &str) -> Outcome {
        let (port, missing) = match script.door {
            Door::Redis => (&self.port, "--port was not given"),
            Door::Consul => (&self.consul_port, "--consul-port was not given"),
            Door::Kafka => (&self.kafka_port, "--kafka-port was not given"),
            Door::Etcd => (&self.etcd_port, "--etcd-port was not given"),
            Door::Cluster => (&self.cluster_port, "--cluster-port was not given"),
            Door::Both if self.kafka_port.is_none() => (&None, "--kafka-port was not given"),
            Door::Both => (&self.port, "--port was not given"),
        };
        let Some(port) = port else { return Outcome::Skipped(missing.into()) };
        let program = match prepare(script.runtime) {
            Ok(program) => program,
            Err(reason) => return Outcome::Skipped(reason),
        };
        let mut args = vec![script.file, &self.host, port];
        args.extend((script.door == Door::Cluster).then_some(self.admin_port.as_str()));
        args.extend(self.kafka_port.as_deref().filter(|_| script.door == Door::Both));
        play(script, &program, &args, name)
    }
}

/// The repository's root: xtask is built in it.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Makes the environment unless it is there as the pinned list wants it, and names the program that runs the script. The error is why not.
fn prepare(runtime: Runtime) -> Result<PathBuf, String> {
    let (root, scripts) = (root(), root().join("tests/clients"));
    match runtime {
        Runtime::Python => {
            quiet("python3", &["--version".into()], &root)?;
            Ok(PathBuf::from("python3"))
        }
        Runtime::Venv(name) => {
            let venv = root.join(".tools").join(name);
            let python = venv.join("bin/python");
            let list = scripts.join(format!("requirements-{name}.txt"));
            once(&list, &venv.join("pinned.txt"), || {
                quiet("python3", &["-m".into(), "venv".into(), "--clear".into(), text(&venv)], &root)?;
                let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"].map(String::from);
                quiet(&text(&python), &[&pip[..], &[text(&list)]].concat(), &root)
            })?;
            Ok(python)
        }
        Runtime::Node => {
            quiet("node", &["--version".into()], &root)?;
            let list = scripts.join("package-lock.json");
            once(&list, &scripts.join("node_modules/.pinned"), || {
                quiet("npm", &["ci", "--no-audit", "--no-fund", "--silent"].map(String::from), &scripts)
            })?;
            Ok(PathBuf::from("node"))
        }
    }
}

/// Runs `make` unless `stamp` says that it was made from this very list.
pub fn once(list: &Path, stamp: &Path, make: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let wanted = fs::read(list).map_err(|error| format!("{}: {error}", list.display()))?;
    if fs::read(stamp).is_ok_and(|made| made == wanted) {
        return Ok(());
    }
    make()?;
    fs::write(stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn quiet(program: &str, args: &[String], dir: &Path) -> Result<(), String> {
    let done = Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr).trim().lines().last().unwrap_or("").to_owned();
    Err(format!("{program} {}: {}: {said}", args.join(" "), done.status))
}

fn play(script: &Script, program: &Path, args: &[&str], called: &str) -> Outcome {
    let logs = root().join(".tools/logs");
    let log = logs.join(format!("{called}.log"));
    let opened =
        fs::create_dir_all(&logs).and_then(|()| fs::File::create(&log)).and_then(|file| Ok((file.try_clone()?, file)));
    let (out, err) = match opened {
        Ok(files) => files,
        Err(error) => return Outcome::Failed(format!("{}: {error}", log.display())),
    };
    let child = Command::new(program)
        .args(args)
        .current_dir(root().join("tests/clients"))
        .env("PYTHONUNBUFFERED", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return Outcome::Skipped(format!("{}: {error}", program.display())),
    };
    let start = Instant::now();
    let mut asked_to_end = false;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => return Outcome::Failed(error.to_string()),
        }
        let late = start.elapsed().saturating_sub(Duration::from_secs(script.seconds_max));
        if late > Duration::ZERO && !asked_to_end {
            // An interrupt, so that the script ends what it started.
            let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
            asked_to_end = true;
        }
        if late > Duration::from_secs(15) {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let said = fs::read_to_string(&log).unwrap_or_default();
    match status.code() {
        Some(0) => Outcome::Passed,
        Some(SKIPPED) => Outcome::Skipped(said.trim().trim_start_matches("skipped: ").to_owned()),
        _ => {
            let lines: Vec<_> = said.lines().collect();
            let why = if asked_to_end { format!("not done within {} s; ", script.seconds_max) } else { String::new() };
            Outcome::Failed(format!(
                "{why}{status}; the end of {}:\n{}",
                log.display(),
                lines[lines.len().saturating_sub(40)..].join("\n")
            ))
        }
    }
}
