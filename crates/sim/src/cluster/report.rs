//! What a seed came to, or how it broke a promise.

use std::fmt;

macro_rules! report {
    ($($(#[$doc:meta])* $name:ident $words:literal,)*) => {
        /// What happened: a kind of event that never does is a harness that lies.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Report {
            $($(#[$doc])* pub $name: u64,)*
            /// A checksum over everything that clients were told.
            pub digest: u64,
        }

        impl Report {
            /// Adds another seed's.
            pub fn add(&mut self, other: &Report) {
                $(self.$name += other.$name;)*
                self.digest = self.digest.rotate_left(9) ^ other.digest;
            }

            /// Each figure with its name.
            pub fn figures(&self) -> Vec<(&'static str, u64)> {
                vec![$(($words, self.$name),)*]
            }
        }
    };
}

report! {
    /// Events.
    events "events",
    /// Terms in which somebody led.
    elections "elections",
    /// Changes of membership that were decided.
    changes "membership changes",
    /// Pairs of changes that two nodes asked for at once.
    twins "changes of members by two at once",
    /// The second came to the leader that had the first and had not done it.
    twins_met "of these at one leader",
    /// They were sent to two who believe to lead, or did.
    twins_apart "of these at two leaders",
    /// Both came about.
    twins_done "of these that both came about",
    /// Power cuts of one node.
    crashes "power cuts",
    /// Processes killed.
    kills "kills",
    /// Power cuts of all nodes at once.
    blackouts "power cuts of all nodes",
    /// Processes stopped for a while.
    pauses "pauses",
    /// Nodes cut off both ways.
    isolations "isolations",
    /// Links cut one way.
    one_way "one-way cuts",
    /// The network in two halves.
    halves "partitions",
    /// Links cut and mended in random order.
    swizzles "swizzles",
    /// Links cut and mended again and again.
    flaps "flapping links",
    /// Times of loss, doubling and disorder.
    storms "storms",
    /// Messages that came before older ones.
    reordered "messages out of order",
    /// Groups found to have fallen silent, twice a second.
    silent "looks at a group that has fallen silent",
    /// Disks that had no room for a while.
    full "full disks",
    /// Links on which messages take long.
    slow_links "slow links",
    /// Leaders that hear late.
    late "late answers",
    /// Nodes restarted while another one stands for election and the leader's lease runs.
    tempted "restarts under a lease",
    /// Disks slowed down.
    slow "slow disks",
    /// Syncs that failed.
    bad_syncs "failed syncs",
    /// Disks on which something durable was spoiled.
    rots "rotten disks",
    /// Nodes started on which damage hit a group.
    damages "starts with damage",
    /// Nodes started that had to cut a torn tail, and groups in doubt for it.
    cuts "torn tails",
    /// Starts after which a majority of the data group's voters were in doubt at once.
    doubtful_majorities "majorities in doubt",
    /// Groups whose fence was lifted.
    lifted "fences lifted",
    /// Wall clocks set.
    jumps "wall clocks set",
    /// Leaders asked to hand over.
    transfers "transfers asked for",
    /// Messages lost.
    lost "messages lost",
    /// Messages that came twice.
    doubled "messages doubled",
    /// Snapshots that came to another node and were used.
    installed "snapshots installed",
    /// Appends acknowledged.
    appends "appends acknowledged",
    /// Requests refused.
    refused "requests refused",
    /// Requests of unknown outcome.
    unknown "outcomes unknown",
    /// Reads by lease.
    lease_reads "reads by lease",
    /// Reads behind other requests.
    queued_reads "reads in the queue",
    /// Reads by index, at any node.
    index_reads "reads by index",
    /// Batches that producers sent.
    sends "batches sent",
    /// Batches acknowledged.
    stored "batches acknowledged",
    /// Batches sent again.
    resent "batches sent again",
    /// Batches that had been stored when they came again.
    again "batches known already",
    /// Polls of consumers.
    polls "polls",
    /// Extent files that leaders need in the end.
    extents "extent files",
    /// Those that are segments of the log.
    linked "linked extent files",
    /// Transactions that were committed, as their producers know.
    committed "transactions committed",
    aborted "transactions aborted",
    /// Producers that were told that they may not go on.
    fenced "producers fenced",
    /// Producers whose name somebody else took in the middle of a transaction.
    usurped "transactional ids taken over",
    timeouts "transactions that took too long",
    markers "markers written",
    /// Commands that came after their clients had given them up.
    late_commands "commands that came late",
    /// Generations of a group.
    generations "generations of a group",
    group_commits "commits of offsets",
    fenced_commits "commits of offsets refused",
    group_reads "reads of a group's offsets",
    trims "deletes of old records",
    /// Slots that have gone from one shard to another, splits among them.
    moves "moves of slots",
    /// Shards that were split: their second shard was made.
    splits "shards made by a split",
    /// Attempts at moves.
    attempts "attempts to move slots",
    /// Those that a fault broke off: another one followed.
    broken_moves "moves begun anew",
    /// Words of movers that come again, late.
    stale_asks "late words of movers",
    /// Those that found the slots frozen by one before.
    thaws "moves begun anew behind a freeze",
    /// Transactions over several shards.
    cross_begun "transactions over shards begun",
    cross "transactions over shards done",
    cross_again "transactions over shards begun again",
    cross_refused "transactions over shards refused",
    /// Their doors died.
    cross_unknown "transactions over shards whose door died",
    /// Recoveries by participants' leaders, and by homes'.
    resolves "participants that asked what was decided",
    reminders "homes that told participants what was decided",
    late_units "units of commits that came late",
    doors_struck "doors killed in the middle of a commit",
    leaders_struck "leaders killed in the middle of a commit",
    held "units that waited for a lock",
    locked_reads "reads that met a lock",
    audits "sums of all accounts",
    named "commits by name",
    changed "changes by what was watched",
    watched_changed "changes refused for what was watched",
    /// Of etcd's clients.
    etcd_writes "writes to etcd's keys acknowledged",
    revisions "revisions",
    watched "events told to watchers",
    resumed "watches gone on with elsewhere",
    behind "watchers that were told that their revision is gone",
    locks_taken "locks taken under a lease",
    paused_holders "holders paused",
    guarded "writes by who holds a lock",
    late_refused "late writes refused",
    /// Of holders of fenced locks.
    numbers "numbers given to holders of locks",
    shown "writes that showed a number",
    stale_refused "writes refused for a stale number",
    sessions_over "sessions that were over when they were renewed",
    sessions_over_leaders "of these after a change of the leader",
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.figures().iter().map(|(name, count)| format!("{count} {name}")).collect();
        f.write_str(&words.join(", "))
    }
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// By which seed.
    pub seed: u64,
    /// With how many founders.
    pub nodes: u64,
    /// For how many virtual milliseconds of faults.
    pub millis: u64,
    /// Whether slots moved.
    pub moves: bool,
    /// Whether there were transactions over shards.
    pub commits: bool,
    /// Whether members were changed from two nodes at once.
    pub twins: bool,
    /// Whether there were clients of etcd's door.
    pub etcd: bool,
    /// At which virtual millisecond.
    pub at: u64,
    /// What.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, nodes, millis, moves, commits, twins, etcd, at, what } = self;
        let twins = if *twins { " --twins 1" } else { "" };
        let etcd = format!(" --etcd {}", u8::from(*etcd));
        let commits = if *commits { " --commits 1" } else { "" };
        let moves = if *moves { " --moves 1" } else { "" };
        write!(
            f,
            "seed {seed}, {nodes} nodes, at {at} ms: {what}\nagain: cargo run -p sim -- cluster --nodes {nodes} --millis {millis}{moves}{commits}{twins}{etcd} --seeds {seed}..{}",
            seed + 1
        )
    }
}
