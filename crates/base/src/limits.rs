//! Every bound of the product in one place, with the relations between them proven at compile time.
//! `docs/limits.md` lists the same names for users.

/// Bounds that a node keeps. Each is configurable where a user could need it; the defaults are what `quorate.toml` shows.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest single argument of a command, bytes. Redis's `proto-max-bulk-len` is 512 MB; ours keeps an entry small enough to replicate.
    pub bulk_bytes_max: usize,
    /// Most arguments of one command.
    pub args_max: usize,
    /// Largest command in total, bytes: the sum of its arguments.
    pub command_bytes_max: usize,
    /// Largest inline command, bytes.
    pub inline_bytes_max: usize,
    /// Before AUTH: most arguments and largest argument (Redis's own pre-authentication bounds).
    pub unauthenticated_args_max: usize,
    /// See `unauthenticated_args_max`.
    pub unauthenticated_bulk_bytes_max: usize,
    /// Commands of one connection that may wait for their answers at once; beyond it the connection is read no further.
    pub pipeline_depth_max: usize,
    /// Answers that may wait for a client that does not read them, bytes; beyond it the client is closed.
    pub output_bytes_max: usize,
    /// Commands between MULTI and EXEC.
    pub multi_commands_max: usize,
    /// Connections on one door.
    pub connections_max: usize,
    /// Channels and patterns that one client may be subscribed to.
    pub subscriptions_max: usize,
    /// Bytes of commands that wait for the log; beyond it commands are refused with `-BUSY`-style errors.
    pub pending_bytes_max: usize,
    /// Largest log entry, bytes: a batch closes before it grows past this.
    pub entry_bytes_max: usize,
    /// Instructions of one Lua script.
    pub script_instructions_max: u64,
    /// Memory of the Lua interpreter, bytes.
    pub script_memory_bytes_max: usize,
    /// Source of one Lua script, bytes.
    pub script_bytes_max: usize,
    /// Scripts kept for EVALSHA.
    pub scripts_max: usize,
    /// Blocked clients (BLPOP and kin) on one shard.
    pub waiters_max: usize,
}

impl Limits {
    /// The documented defaults.
    pub const DEFAULT: Limits = Limits {
        bulk_bytes_max: 64 << 20,
        args_max: 1 << 20,
        command_bytes_max: 128 << 20,
        inline_bytes_max: 64 << 10,
        unauthenticated_args_max: 10,
        unauthenticated_bulk_bytes_max: 16 << 10,
        pipeline_depth_max: 10_000,
        output_bytes_max: 256 << 20,
        multi_commands_max: 100_000,
        connections_max: 10_000,
        subscriptions_max: 100_000,
        pending_bytes_max: 512 << 20,
        entry_bytes_max: 4 << 20,
        script_instructions_max: 200_000_000,
        script_memory_bytes_max: 64 << 20,
        script_bytes_max: 1 << 20,
        scripts_max: 1_000,
        waiters_max: 100_000,
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

// A command must fit into what may wait, and an argument into a command.
const _: () = assert!(Limits::DEFAULT.bulk_bytes_max <= Limits::DEFAULT.command_bytes_max);
const _: () = assert!(Limits::DEFAULT.command_bytes_max <= Limits::DEFAULT.pending_bytes_max);
const _: () = assert!(Limits::DEFAULT.unauthenticated_bulk_bytes_max <= Limits::DEFAULT.bulk_bytes_max);
