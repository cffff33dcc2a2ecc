//! `quorate import` and `quorate export`: what is asked for; [`host::transfer`] does it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use host::transfer::{CutOver, Existing, Imported, Server, Wishes};

use crate::config;

/// The source's password.
const SOURCE_PASSWORD: &str = "QUORATE_SOURCE_PASSWORD";

pub const IMPORT_EXAMPLES: &str = "Examples:
  quorate import redis cache.example.com:6379
      Takes its snapshot, goes on with what it is told, and says how far it is. Ctrl-C cuts over: the source holds
      its writers back for a minute, the last of its commands come in, and the node has all that it had.
  quorate import redis cache.example.com:6379 --cut-over --user mover --password-file secret
      The same, cutting over as soon as the node has caught up.
  quorate import rdb dump.rdb --to 10.0.0.1:6379 --flush

The source's user needs: +psync +replconf +ping +info +client|pause. docs/import.md has the whole story.";

pub const EXPORT_EXAMPLES: &str = "Examples:
  quorate export dump.rdb
  redis-server --dir . --dbfilename dump.rdb

Each key is as it was when it was read. Topics are Kafka's and not in it.";

/// The node's Redis door.
#[derive(Clone, Debug, clap::Args)]
pub struct Node {
    /// The node's Redis door. Any node of a cluster will do.
    #[arg(
        long = "node",
        visible_alias = "to",
        visible_alias = "from",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:6379"
    )]
    address: String,
    /// Whose password, at the node; the default user's if not given.
    #[arg(long, value_name = "NAME")]
    node_user: Option<String>,
    /// File whose first line is the password at the node; QUORATE_PASSWORD if not given.
    #[arg(long, value_name = "FILE")]
    node_password_file: Option<PathBuf>,
    /// File of the authorities (PEM) of the node's certificate: it is spoken to over TLS.
    #[arg(long, value_name = "FILE")]
    node_ca: Option<PathBuf>,
}

/// What becomes of what is there.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct There {
    /// Keys of the same names at the node are replaced. Without this or --flush it must have none.
    #[arg(long, conflicts_with = "flush")]
    replace: bool,
    /// Remove all keys of the node first (FLUSHALL).
    #[arg(long)]
    flush: bool,
    /// Leave out keys that modules made. Without this the first one ends the import.
    #[arg(long)]
    skip_modules: bool,
}

/// Where from.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Import {
    /// From a running Redis (or Valkey) server: its snapshot, then what it is told, until the cut-over (Ctrl-C).
    #[command(after_help = IMPORT_EXAMPLES)]
    Redis {
        /// The server.
        #[arg(value_name = "HOST:PORT")]
        source: String,
        /// Whose password, at the source.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// File whose first line is the password at the source; QUORATE_SOURCE_PASSWORD if not given.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// File of the authorities (PEM) of the source's certificate: it is spoken to over TLS.
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// Cut over as soon as the node has caught up.
        #[arg(long)]
        cut_over: bool,
        /// Do not hold writers back at the source while cutting over: you have stopped them.
        #[arg(long)]
        no_pause: bool,
        #[command(flatten)]
        there: There,
        #[command(flatten)]
        node: Node,
    },
    /// From an RDB file, of Redis up to 7.2.
    #[command(after_help = IMPORT_EXAMPLES)]
    Rdb {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        there: There,
        #[command(flatten)]
        node: Node,
    },
}

/// Where to.
#[derive(Clone, Debug, clap::Args)]
pub struct Export {
    /// The file. It appears once it is whole; one of that name is replaced then.
    file: PathBuf,
    #[command(flatten)]
    node: Node,
}

fn server(
    address: &str,
    user: Option<&String>,
    password_file: Option<&Path>,
    variable: &str,
    ca: Option<&Path>,
) -> Result<Server, String> {
    let password = match password_file {
        Some(path) => Some(config::password_in(path)?),
        None => std::env::var(variable).ok(),
    };
    let read = |path: &Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let authorities = ca.map(read).transpose()?;
    Ok(Server { address: address.to_owned(), user: user.cloned(), password, authorities })
}

impl Node {
    fn server(&self) -> Result<Server, String> {
        let (file, ca) = (self.node_password_file.as_deref(), self.node_ca.as_deref());
        server(&self.address, self.node_user.as_ref(), file, config::PASSWORD_VARIABLE, ca)
    }
}

impl There {
    fn wishes(self) -> Wishes {
        let existing = match (self.replace, self.flush) {
            (_, true) => Existing::Flush,
            (true, _) => Existing::Replace,
            _ => Existing::Refuse,
        };
        Wishes { existing, skips_modules: self.skip_modules }
    }
}

fn say(line: &str) {
    // Whoever does not listen does not stop it.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Ctrl-C cuts over; a second one ends it.
fn listen() -> Arc<AtomicBool> {
    let over = Arc::new(AtomicBool::new(false));
    let told = over.clone();
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if told.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    });
    over
}

/// Does what was asked for.
pub fn import(import: &Import) -> Result<ExitCode, String> {
    let (done, last) = match import {
        Import::Rdb { file, there, node } => {
            (host::transfer::import_rdb(file, &node.server()?, &there.wishes(), &mut say)?, String::new())
        }
        Import::Redis { source, user, password_file, ca, cut_over, no_pause, there, node } => {
            let from = server(source, user.as_ref(), password_file.as_deref(), SOURCE_PASSWORD, ca.as_deref())?;
            let cut = CutOver { at_once: *cut_over, pauses: !no_pause };
            let done = host::transfer::import_redis(&from, &node.server()?, &there.wishes(), cut, &listen(), &mut say)?;
            let held = if *no_pause { "" } else { "; it holds its writers back for a minute" };
            (done, format!("The node has all that {source} had{held}: point your clients to {} now.\n", node.address))
        }
    };
    let Imported { keys, expired, libraries, commands, left } = done;
    println!(
        "{keys} keys ({expired} of them expired on the way), {libraries} libraries of functions, {commands} commands since."
    );
    for what in left {
        println!("Left out: {what}.");
    }
    print!("{last}");
    Ok(ExitCode::SUCCESS)
}

/// Does what was asked for.
pub fn export(export: &Export) -> Result<ExitCode, String> {
    let done = host::transfer::export(&export.node.server()?, &export.file, &mut say)?;
    println!(
        "{}: {} keys and {} libraries of functions, {} bytes. redis-server loads it.",
        export.file.display(),
        done.keys,
        done.libraries,
        done.bytes
    );
    Ok(ExitCode::SUCCESS)
}
