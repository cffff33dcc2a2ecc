//! The `quorate` program: the command line, nothing else. Every command has a module.

mod ask;
mod check;
mod cli;
mod cluster;
mod config;
mod configure;
mod explain;
mod identity;
mod keys;
mod loading;
mod route;
mod status;
mod tour;
mod transfer;
mod up;
mod verify;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A Redis-compatible server that keeps every acknowledged write.
#[derive(Parser)]
#[command(name = "quorate", version, disable_help_subcommand = true, after_help = EXAMPLES)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  quorate up                            a node on this machine, data in ./quorate-data
  quorate cli set hello world           talk to it; `quorate cli` alone gives a prompt
  redis-cli -p 6379                     so does any Redis client
  quorate up --config quorate.toml      the same with your settings
  quorate tour                          demonstrations of what it promises
  quorate status                        how a running node is

Exit codes: 0 done, 1 it failed and the message says why, 2 the command line is wrong.";

// Parsed once and used at once.
#[allow(clippy::large_enum_variant)]
#[derive(Subcommand)]
enum Command {
    /// Start a node: the doors for Redis, Kafka, etcd, Consul, DNS and people, the gateway, data on disk.
    #[command(after_help = UP_EXAMPLES)]
    Up(UpArgs),
    /// A Redis command line: one command, or a prompt.
    #[command(disable_help_flag = true, after_help = CLI_EXAMPLES)]
    Cli(CliArgs),
    /// Ask a running node how it is.
    #[command(
        after_help = "Examples:\n  quorate status\n  quorate status --admin 127.0.0.1:7071 --json\n\nExit code 1 if it is not there or not ready."
    )]
    Status {
        /// Its admin door.
        #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7070")]
        admin: SocketAddr,
        /// The whole status, as JSON.
        #[arg(long)]
        json: bool,
        /// File whose first line is its password; QUORATE_ADMIN_PASSWORD if not given.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Where a key lies, and what else the last commit that named it contained.
    #[command(
        after_help = "Examples:\n  quorate explain order:17\n  quorate explain topic:orders --json\n\nOf commits it knows those that the node remembers: the last 4,096 at most, and 8 MiB of them."
    )]
    Explain {
        /// The key, or a topic as topic:NAME or topic:NAME:PARTITION.
        key: String,
        /// Its database.
        #[arg(long, value_name = "N", default_value_t = 0)]
        db: u8,
        /// The node's admin door.
        #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7070")]
        admin: SocketAddr,
        /// The whole answer, as JSON.
        #[arg(long)]
        json: bool,
        /// File whose first line is its password; QUORATE_ADMIN_PASSWORD if not given.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Nodes and shards of the cluster, and what is to become of them. Without a verb, how they are.
    #[command(after_help = CLUSTER_EXAMPLES)]
    Cluster {
        #[command(flatten)]
        at: cluster::At,
        #[command(subcommand)]
        verb: Option<cluster::Verb>,
    },
    /// Routes of the gateway: which requests go where. Without a verb, the list.
    #[command(after_help = ROUTE_EXAMPLES)]
    Route {
        #[command(flatten)]
        at: route::At,
        #[command(subcommand)]
        verb: Option<route::Verb<route::RouteOptions>>,
    },
    /// Upstreams of the gateway: servers that are equals. Without a verb, the list with their health.
    #[command(after_help = ROUTE_EXAMPLES)]
    Upstream {
        #[command(flatten)]
        at: route::At,
        #[command(subcommand)]
        verb: Option<route::Verb<route::UpstreamOptions>>,
    },
    /// Listeners of the gateway: where connections come in. Without a verb, the list.
    #[command(after_help = ROUTE_EXAMPLES)]
    Listener {
        #[command(flatten)]
        at: route::At,
        #[command(subcommand)]
        verb: Option<route::Verb<route::ListenerOptions>>,
    },
    /// Take what a Redis server, or a file of one, holds into a node.
    #[command(subcommand, after_help = transfer::IMPORT_EXAMPLES)]
    Import(transfer::Import),
    /// Write all keys of a node, or of the cluster that it is of, into an RDB file, which Redis loads.
    #[command(after_help = transfer::EXPORT_EXAMPLES)]
    Export(transfer::Export),
    /// Tell the gateway all that a file says about routes, upstreams and listeners: all of it or nothing.
    #[command(
        after_help = "Examples:\n  quorate apply routes.toml\n  quorate apply routes.toml --check\n  quorate apply routes.toml --replace"
    )]
    Apply {
        #[command(flatten)]
        at: route::At,
        /// TOML, or JSON if its name ends so; - for standard input.
        file: PathBuf,
        /// Whatever the file does not name goes.
        #[arg(long)]
        replace: bool,
        /// Only say whether it makes sense and what would change.
        #[arg(long)]
        check: bool,
    },
    /// Demonstrations of what is promised, with the real program: without a name, the list.
    #[command(
        after_help = "Examples:\n  quorate tour\n  quorate tour durable\n\nEach runs on free ports in a directory of its own that it removes, in less than 30 seconds."
    )]
    Tour {
        /// Which.
        name: Option<String>,
    },
    /// The settings of a node (check, example), and configuration that lies in the cluster, with history and schemas.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at a data directory.
    #[command(subcommand)]
    Log(LogCommand),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check a file and print the settings that a node would run with; without a file, the defaults.
    #[command(after_help = "Examples:\n  quorate config check quorate.toml")]
    Check {
        /// The TOML file.
        file: Option<PathBuf>,
    },
    /// Print a file with every key, its default and why one would change it.
    #[command(after_help = "Examples:\n  quorate config example > quorate.toml")]
    Example,
    #[command(flatten)]
    Keys(configure::Verb),
}

#[derive(Subcommand)]
enum LogCommand {
    /// Read every record and every snapshot of a node that does not run; exit code 1 for damage, which it names.
    #[command(after_help = "Examples:\n  quorate log verify ./quorate-data")]
    Verify {
        /// The data directory.
        dir: PathBuf,
    },
}

const CLUSTER_EXAMPLES: &str = "\
Examples:
  quorate cluster                       nodes, shards, leaders, lag, and what is wrong
  quorate cluster token                 prints the command that adds a node
  quorate cluster drain 2               before node 2 is restarted
  quorate cluster remove 3              moves its replicas away and forgets it; it may be lost already
  quorate cluster move 1 --from 2 --to 4
  quorate cluster status --json | jq .problems

Any node can be asked. Exit code of status: 1 if something is wrong.";

const ROUTE_EXAMPLES: &str = "\
Examples:
  quorate upstream add shop 127.0.0.1:9001 127.0.0.1:9002
  quorate route add shop --to shop --path '/shop/*' --rate 100/s
  quorate route set shop --to shop=95 --to shop-next=5 --sticky cookie:session
  quorate upstream add carts --service carts          the instances of a service of the registry
  quorate route remove shop

Every change is judged together with all that is there, and applies at one position of the log.";

const UP_EXAMPLES: &str = "\
Examples:
  quorate up                                   everything by default
  quorate up --redis-port 6380                 another port; taken, it is an error (the default one would move on)
  quorate up --durability memory               a cache: nothing is logged, empty after a restart
  quorate up --join 10.0.0.1:7400 --token …    a node more; the first one prints the command
  quorate up --redis-bind 0.0.0.0:6379 --password-file secret
  quorate up --set limits.connections_max=500 --set log.max_bytes=10GiB

Stop it with Ctrl-C or SIGTERM: what is under way is finished and synced. A second one ends it at once.";

/// Flags of `quorate up`; each sets one key of the configuration, over the file.
#[derive(Args, Default)]
pub struct UpArgs {
    /// Settings from this TOML file; without it, defaults. See quorate.toml for every key.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory (data_dir).
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Port of the Redis door; 0 takes any free one.
    #[arg(long, value_name = "N", conflicts_with = "redis_bind")]
    redis_port: Option<u16>,
    /// Address of the Redis door (redis.bind).
    #[arg(long, value_name = "ADDR:PORT")]
    redis_bind: Option<String>,
    /// Join the cluster of the node whose peer door is here, at the first start (cluster.join).
    #[arg(long, value_name = "HOST:PORT")]
    join: Option<String>,
    /// The join token, as the first node prints it; QUORATE_JOIN_TOKEN, or cluster.token_file, hides it from the list of processes.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Port of the peer door, where other nodes come in; 0 takes any free one.
    #[arg(long, value_name = "N", conflicts_with = "peer_bind")]
    peer_port: Option<u16>,
    /// Address of the peer door (cluster.bind).
    #[arg(long, value_name = "ADDR:PORT")]
    peer_bind: Option<String>,
    /// Name or address under which others reach this node (cluster.advertise).
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Option<String>,
    /// What fails together with this node (cluster.zone).
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// What the node is there for: gateway,data,meta (cluster.roles).
    #[arg(long, value_name = "LIST")]
    roles: Option<String>,
    /// Port of the admin door; 0 takes any free one.
    #[arg(long, value_name = "N", conflicts_with = "admin_bind")]
    admin_port: Option<u16>,
    /// Address of the admin door (admin.bind).
    #[arg(long, value_name = "ADDR:PORT")]
    admin_bind: Option<String>,
    /// Port of the gateway's own listener; 0 takes any free one.
    #[arg(long, value_name = "N", conflicts_with = "gateway_bind")]
    gateway_port: Option<u16>,
    /// Address of the gateway's own listener (gateway.bind).
    #[arg(long, value_name = "ADDR:PORT")]
    gateway_bind: Option<String>,
    /// Port of the Consul door; 0 takes any free one.
    #[arg(long, value_name = "N", conflicts_with = "consul_bind")]
    consul_port: Option<u16>,
    /// Address of the Consul door (consul.bind).
    #[arg(long, value_name = "ADDR:PORT")]
    consul_bind: Option<String>,
    /// Port of the etcd door; 0 takes any free one.
    #[arg(long, value_name = "N", conflicts_with = "etcd_bind")]
    etcd_port: Option<u16>,
    /// Address of the etcd door (etcd.bind).
    #[arg(long, value_name = "ADDR")]
    etcd_bind: Option<String>,
    /// Port of the Kafka door; 0 takes any free one.
    #[arg(long, value_name = "N", conflicts_with = "kafka_bind")]
    kafka_port: Option<u16>,
    /// Address of the Kafka door (kafka.bind).
    #[arg(long, value_name = "ADDR:PORT")]
    kafka_bind: Option<String>,
    /// Port of the DNS door, UDP and TCP; 0 takes any free one.
    #[arg(long, value_name = "N", conflicts_with = "dns_bind")]
    dns_port: Option<u16>,
    /// Address of the DNS door (dns.bind).
    #[arg(long, value_name = "ADDR:PORT")]
    dns_bind: Option<String>,
    /// File whose first line is the Redis door's password (redis.password_file).
    #[arg(long, value_name = "FILE", conflicts_with = "password")]
    password_file: Option<PathBuf>,
    /// The password itself. Others on this machine can see it in the list of processes: a file, or QUORATE_PASSWORD, is better.
    #[arg(long, value_name = "WORD")]
    password: Option<String>,
    /// File whose first line is the admin door's password (admin.password_file).
    #[arg(long, value_name = "FILE", conflicts_with = "admin_password")]
    admin_password_file: Option<PathBuf>,
    /// The admin door's password itself; a file, or QUORATE_ADMIN_PASSWORD, is better.
    #[arg(long, value_name = "WORD")]
    admin_password: Option<String>,
    /// Allow a door beyond loopback without a password (insecure_bind).
    #[arg(long)]
    insecure_bind: bool,
    /// What an answer to a write promises, keyspaces aside: "fsync" or "memory".
    #[arg(long, value_name = "WORD")]
    durability: Option<String>,
    /// Data shards (data_shards); fixed once the data directory is made.
    #[arg(long, value_name = "N")]
    data_shards: Option<usize>,
    /// Threads that serve connections (workers).
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// How long a stop may take (stop_timeout).
    #[arg(long, value_name = "SPAN")]
    stop_timeout: Option<String>,
    /// Any key of quorate.toml, as often as needed.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print a line `ready redis=ADDR admin=ADDR gateway=ADDR consul=ADDR dns=ADDR kafka=ADDR etcd=ADDR` on stdout once clients are served, for scripts.
    #[arg(long)]
    print_ready: bool,
    /// Ends with the program that started it, for demonstrations and tests.
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

const CLI_EXAMPLES: &str = "\
Examples:
  quorate cli set hello world
  quorate cli -p 6380 get hello
  quorate cli                        a prompt; \"help\" explains, \"quit\" ends
  echo 'incr visits' | quorate cli   a command a line";

/// Options of `quorate cli`, named as redis-cli names them.
#[derive(Args)]
struct CliArgs {
    /// Host name or address.
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    host: String,
    /// Port.
    #[arg(short, long, default_value_t = 6379)]
    port: u16,
    /// Password; QUORATE_PASSWORD if not given.
    #[arg(short = 'a', long = "pass", value_name = "WORD")]
    password: Option<String>,
    /// User whose password it is.
    #[arg(long)]
    user: Option<String>,
    /// Database.
    #[arg(short = 'n', long, default_value_t = 0)]
    db: u32,
    /// Speak RESP3.
    #[arg(short = '3')]
    resp3: bool,
    /// Print byte strings as they are, also to a terminal.
    #[arg(long, conflicts_with = "no_raw")]
    raw: bool,
    /// Print byte strings in quotes, also into a pipe.
    #[arg(long)]
    no_raw: bool,
    /// An error reply gives exit code 1.
    #[arg(short = 'e')]
    error_exit: bool,
    /// Print this help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// The command and its words; none gives a prompt.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl CliArgs {
    fn options(self) -> cli::CliOptions {
        let raw = if self.raw { Some(true) } else { self.no_raw.then_some(false) };
        cli::CliOptions {
            host: self.host,
            port: self.port,
            password: self.password.or_else(|| std::env::var(config::PASSWORD_VARIABLE).ok()),
            user: self.user,
            db: self.db,
            resp3: self.resp3,
            raw,
            error_exit: self.error_exit,
            command: self.command,
        }
    }
}

/// Whoever reads our output may have seen enough (`quorate status | head -1`): then we end as other programs do, by SIGPIPE's code, and do not panic.
/// A node goes on.
fn end_with_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if said.starts_with("failed printing to stdout") {
            std::process::exit(141);
        }
        usual(panic);
    }));
}

fn main() -> ExitCode {
    #[cfg(feature = "planted")]
    if let Ok(bug) = std::env::var("QUORATE_PLANTED") {
        assert!(base::plant(&bug), "there is no bug {bug:?}");
        eprintln!("quorate: this program breaks a promise on purpose: {bug}");
    }
    let command = Program::parse().command;
    if !matches!(command, Command::Up(_)) {
        end_with_reader();
    }
    let done = match command {
        Command::Up(args) => up::run(&args),
        Command::Cli(args) => return cli::run(args.options()),
        Command::Status { admin, json, password_file } => status::run(admin, json, password_file.as_deref()),
        Command::Explain { key, db, admin, json, password_file } => {
            explain::run(admin, &key, db, json, password_file.as_deref())
        }
        Command::Cluster { at, verb } => {
            cluster::run(&at, verb.as_ref().unwrap_or(&cluster::Verb::Status { json: false }))
        }
        Command::Route { at, verb } => route::run(&at, verb.as_ref()),
        Command::Upstream { at, verb } => route::run(&at, verb.as_ref()),
        Command::Listener { at, verb } => route::run(&at, verb.as_ref()),
        Command::Import(import) => transfer::import(&import),
        Command::Export(export) => transfer::export(&export),
        Command::Apply { at, file, replace, check } => route::apply(&at, &file, replace, check),
        Command::Tour { name } => tour::run(name.as_deref()),
        Command::Config(ConfigCommand::Check { file }) => check::run(file),
        Command::Config(ConfigCommand::Example) => {
            print!("{}", check::example());
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(ConfigCommand::Keys(verb)) => configure::run(&verb),
        Command::Log(LogCommand::Verify { dir }) => verify::run(&dir),
    };
    match done {
        Ok(code) => code,
        Err(why) => {
            eprintln!("quorate: {why}");
            ExitCode::FAILURE
        }
    }
}
