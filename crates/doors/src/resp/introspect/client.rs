//! CLIENT: what its subcommands ask for, and the line that describes a connection. What is done about it is the caller's.
//!
//! `args` is always the whole command; its number of words has passed [`super::check`].

use std::fmt::Write;

use base::parse_i64;
use shard::command::is;
use shard::error::{CommandError, NOT_INTEGER, SYNTAX, TIMEOUT_NEGATIVE};
use shard::reply::Reply;

use crate::resp::text;

/// What kind of connection it is, as CLIENT LIST and KILL tell them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientType {
    /// None of the others.
    #[default]
    Normal,
    /// Redis's replication: nobody here.
    Master,
    /// Redis's replication: nobody here.
    Replica,
    /// It has subscriptions.
    Pubsub,
}

impl ClientType {
    fn parse(word: &[u8]) -> Result<ClientType, CommandError> {
        match word {
            word if is(word, "normal") => Ok(ClientType::Normal),
            word if is(word, "master") => Ok(ClientType::Master),
            word if is(word, "replica") || is(word, "slave") => Ok(ClientType::Replica),
            word if is(word, "pubsub") => Ok(ClientType::Pubsub),
            _ => Err(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(word)).into()),
        }
    }
}

/// What CLIENT LIST tells of a connection.
#[derive(Clone, Debug, Default)]
pub struct ClientFacts {
    /// Its number.
    pub id: u64,
    /// Its own end, `ip:port`.
    pub addr: String,
    /// Our end, `ip:port`.
    pub laddr: String,
    /// The socket's number; -1 if not known.
    pub fd: i64,
    /// CLIENT SETNAME.
    pub name: String,
    /// Its user; nothing for the default one.
    pub user: String,
    /// Since it connected.
    pub age_seconds: u64,
    /// Since its last command.
    pub idle_seconds: u64,
    /// The selected database.
    pub db: u8,
    /// Channels it listens to.
    pub subscriptions: usize,
    /// Patterns it listens to.
    pub pattern_subscriptions: usize,
    /// Shard channels it listens to.
    pub shard_subscriptions: usize,
    /// Commands since MULTI; `None` outside of it.
    pub multi: Option<usize>,
    /// Keys it watches.
    pub watched: usize,
    /// A watched key has changed.
    pub is_dirty: bool,
    /// It waits in BLPOP or kin.
    pub is_blocked: bool,
    /// It will be closed after its answer.
    pub is_closing: bool,
    /// CLIENT NO-EVICT.
    pub no_evict: bool,
    /// CLIENT NO-TOUCH.
    pub no_touch: bool,
    /// READONLY.
    pub is_readonly: bool,
    /// MONITOR.
    pub is_monitor: bool,
    /// It tracks; redirects to nobody; broadcasts.
    pub tracking: (bool, bool, bool),
    /// Whom tracking messages go to, 0 for itself; nobody where it does not track.
    pub redirect: Option<u64>,
    /// Bytes read but not yet understood.
    pub query_bytes: usize,
    /// Room in that buffer.
    pub query_free_bytes: usize,
    /// Bytes of the words of the command that runs.
    pub argv_bytes: usize,
    /// Bytes of the commands since MULTI.
    pub multi_bytes: usize,
    /// Bytes of answers that wait to be written.
    pub output_bytes: usize,
    /// All its memory, bytes.
    pub total_bytes: usize,
    /// The full name of its last command; empty if there was none.
    pub last_command: String,
    /// 2 or 3.
    pub resp: u8,
    /// CLIENT SETINFO LIB-NAME.
    pub lib_name: String,
    /// CLIENT SETINFO LIB-VER.
    pub lib_ver: String,
}

impl ClientFacts {
    /// What kind it is.
    pub fn kind(&self) -> ClientType {
        match self.subscriptions + self.pattern_subscriptions + self.shard_subscriptions {
            0 => ClientType::Normal,
            _ => ClientType::Pubsub,
        }
    }

    /// The line of CLIENT LIST and CLIENT INFO, its `\n` included. No field but the last of a name may hold a blank, which
    /// [`validate_name`] sees to.
    pub fn line(&self) -> String {
        let mut flags: String = [
            (self.is_monitor, 'O'),
            (self.kind() == ClientType::Pubsub, 'P'),
            (self.multi.is_some(), 'x'),
            (self.is_blocked, 'b'),
            (self.is_dirty, 'd'),
            (self.tracking.0, 't'),
            (self.tracking.1, 'R'),
            (self.tracking.2, 'B'),
            (self.is_closing, 'c'),
            (self.is_readonly, 'r'),
            (self.no_evict, 'e'),
            (self.no_touch, 'T'),
        ]
        .into_iter()
        .filter_map(|(set, flag)| set.then_some(flag))
        .collect();
        if flags.is_empty() {
            flags.push('N');
        }
        let mut line = String::new();
        write!(
            line,
            "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={flags} db={} sub={} psub={} ssub={} multi={} ",
            self.id,
            self.addr,
            self.laddr,
            self.fd,
            self.name,
            self.age_seconds,
            self.idle_seconds,
            self.db,
            self.subscriptions,
            self.pattern_subscriptions,
            self.shard_subscriptions,
            self.multi.map_or(-1, |commands| commands as i64),
        )
        .and_then(|()| {
            // Answers wait in one buffer: it is what Redis calls the output list.
            writeln!(
                line,
                "qbuf={} qbuf-free={} argv-mem={} multi-mem={} rbs=0 rbp=0 obl=0 oll={} omem={} tot-mem={} events={} cmd={} \
                 user={} redir={} resp={} lib-name={} lib-ver={}",
                self.query_bytes,
                self.query_free_bytes,
                self.argv_bytes,
                self.multi_bytes,
                usize::from(self.output_bytes > 0),
                self.output_bytes,
                self.total_bytes,
                if self.output_bytes > 0 { "rw" } else { "r" },
                if self.last_command.is_empty() { "NULL" } else { &self.last_command },
                if self.user.is_empty() { "default" } else { &self.user },
                self.redirect.map_or(-1, |id| id as i64),
                self.resp,
                self.lib_name,
                self.lib_ver,
            )
        })
        .expect("a String takes any text");
        line
    }
}

/// Which connections CLIENT KILL closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KillFilter {
    /// Only this one.
    pub id: Option<u64>,
    /// Only those whose own end is this.
    pub addr: Option<Vec<u8>>,
    /// Only those whose end here is this.
    pub laddr: Option<Vec<u8>>,
    /// Only those of this kind.
    pub kind: Option<ClientType>,
    /// Only those of this user.
    pub user: Option<Vec<u8>>,
    /// Not the one that asks.
    pub skip_me: bool,
    /// `CLIENT KILL addr:port`: answers OK or `ERR No such client` instead of the number of connections.
    pub old_form: bool,
}

impl ClientFacts {
    /// Whose it is.
    fn user(&self) -> &[u8] {
        if self.user.is_empty() { users::DEFAULT } else { self.user.as_bytes() }
    }
}

impl KillFilter {
    /// Whether this connection is to be closed; `me` is the one that asks.
    pub fn matches(&self, client: &ClientFacts, me: u64) -> bool {
        self.id.is_none_or(|id| id == client.id)
            && self.addr.as_ref().is_none_or(|addr| addr == client.addr.as_bytes())
            && self.laddr.as_ref().is_none_or(|laddr| laddr == client.laddr.as_bytes())
            && self.kind.is_none_or(|kind| kind == client.kind())
            && self.user.as_ref().is_none_or(|user| user == client.user())
            && !(self.skip_me && client.id == me)
    }

    /// Writes the answer, given how many connections were closed.
    pub fn write(&self, killed: usize, reply: &mut Reply) {
        match (self.old_form, killed) {
            (true, 0) => reply.error("ERR No such client"),
            (true, _) => reply.ok(),
            (false, _) => reply.int(killed as i64),
        }
    }
}

/// Reads CLIENT KILL. Whether there is the user that it names is for whoever knows the users.
pub fn parse_kill(args: &[&[u8]]) -> Result<KillFilter, CommandError> {
    let mut filter =
        KillFilter { id: None, addr: None, laddr: None, kind: None, user: None, skip_me: true, old_form: false };
    if let [_, _, addr] = args {
        return Ok(KillFilter { addr: Some(addr.to_vec()), skip_me: false, old_form: true, ..filter });
    }
    let mut rest = args.get(2..).unwrap_or_default();
    loop {
        let (word, value) = match rest {
            [] => return Ok(filter),
            [word, value, ..] => (*word, *value),
            [_] => return Err(SYNTAX),
        };
        rest = &rest[2..];
        match word {
            word if is(word, "id") => match parse_i64(value) {
                Some(id) if id > 0 => filter.id = Some(id as u64),
                _ => return Err(CommandError::new("ERR client-id should be greater than 0")),
            },
            word if is(word, "type") => filter.kind = Some(ClientType::parse(value)?),
            word if is(word, "addr") => filter.addr = Some(value.to_vec()),
            word if is(word, "laddr") => filter.laddr = Some(value.to_vec()),
            word if is(word, "user") => filter.user = Some(value.to_vec()),
            word if is(word, "skipme") && is(value, "yes") => filter.skip_me = true,
            word if is(word, "skipme") && is(value, "no") => filter.skip_me = false,
            _ => return Err(SYNTAX),
        }
    }
}

/// Which connections CLIENT LIST tells about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListFilter {
    /// All.
    All,
    /// Those of one kind.
    Type(ClientType),
    /// These, in this order; unknown ones are left out.
    Ids(Vec<u64>),
}

/// Reads CLIENT LIST.
pub fn parse_list(args: &[&[u8]]) -> Result<ListFilter, CommandError> {
    match &args[2..] {
        [] => Ok(ListFilter::All),
        [word, kind] if is(word, "type") => Ok(ListFilter::Type(ClientType::parse(kind)?)),
        [word, ids @ ..] if is(word, "id") && !ids.is_empty() => {
            let id = |id: &&[u8]| parse_i64(id).ok_or(CommandError::new("ERR Invalid client ID"));
            // No connection has a negative number, so nobody is found by one.
            let ids: Vec<i64> = ids.iter().map(id).collect::<Result<_, _>>()?;
            Ok(ListFilter::Ids(ids.into_iter().filter_map(|id| u64::try_from(id).ok()).collect()))
        }
        _ => Err(SYNTAX),
    }
}

/// CLIENT REPLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyMode {
    /// Answers everything; itself answered OK.
    On,
    /// Answers nothing, itself neither.
    Off,
    /// Answers neither itself nor the next command.
    Skip,
}

/// Reads CLIENT REPLY.
pub fn parse_reply(args: &[&[u8]]) -> Result<ReplyMode, CommandError> {
    match args[2] {
        word if is(word, "on") => Ok(ReplyMode::On),
        word if is(word, "off") => Ok(ReplyMode::Off),
        word if is(word, "skip") => Ok(ReplyMode::Skip),
        _ => Err(SYNTAX),
    }
}

/// Reads CLIENT NO-EVICT and CLIENT NO-TOUCH.
pub fn parse_on_off(args: &[&[u8]]) -> Result<bool, CommandError> {
    match args[2] {
        word if is(word, "on") => Ok(true),
        word if is(word, "off") => Ok(false),
        _ => Err(SYNTAX),
    }
}

/// CLIENT SETINFO. An empty value takes it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetInfo<'a> {
    /// The client's library.
    LibName(&'a [u8]),
    /// Its version.
    LibVer(&'a [u8]),
}

/// Reads CLIENT SETINFO.
pub fn parse_setinfo<'a>(args: &[&'a [u8]]) -> Result<SetInfo<'a>, CommandError> {
    let (attribute, value) = (args[2], args[3]);
    let info = match attribute {
        word if is(word, "lib-name") => SetInfo::LibName(value),
        word if is(word, "lib-ver") => SetInfo::LibVer(value),
        _ => return Err(format!("ERR Unrecognized option '{}'", String::from_utf8_lossy(attribute)).into()),
    };
    if !is_listable(value) {
        let attribute = String::from_utf8_lossy(attribute);
        return Err(format!("ERR {attribute} cannot contain spaces, newlines or special characters.").into());
    }
    Ok(info)
}

/// Refuses a name that would break CLIENT LIST's lines. An empty one is valid: it takes the name away.
pub fn validate_name(name: &[u8]) -> Result<(), CommandError> {
    match is_listable(name) {
        true => Ok(()),
        false => Err(CommandError::new("ERR Client names cannot contain spaces, newlines or special characters.")),
    }
}

fn is_listable(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_graphic)
}

/// CLIENT PAUSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// For how long.
    pub milliseconds: u64,
    /// Reads wait too.
    pub all: bool,
}

/// Reads CLIENT PAUSE.
pub fn parse_pause(args: &[&[u8]]) -> Result<Pause, CommandError> {
    let all = match args.get(3) {
        None => true,
        Some(mode) if is(mode, "all") => true,
        Some(mode) if is(mode, "write") => false,
        Some(_) => return Err(CommandError::new("ERR CLIENT PAUSE mode must be WRITE or ALL")),
    };
    if args.len() > 4 {
        return Err(text::subcommand_syntax(args));
    }
    let milliseconds = parse_i64(args[2]).ok_or(CommandError::new("ERR timeout is not an integer or out of range"))?;
    let milliseconds = u64::try_from(milliseconds).map_err(|_| TIMEOUT_NEGATIVE)?;
    Ok(Pause { milliseconds, all })
}

/// CLIENT UNBLOCK: answers 1 if the client was blocked, else 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unblock {
    /// Whose command ends. No client has a negative number.
    pub id: i64,
    /// With `-UNBLOCKED client unblocked via CLIENT UNBLOCK` instead of as if its time was over.
    pub with_error: bool,
}

/// Reads CLIENT UNBLOCK.
pub fn parse_unblock(args: &[&[u8]]) -> Result<Unblock, CommandError> {
    let with_error = match args.get(3) {
        None => false,
        Some(word) if is(word, "timeout") => false,
        Some(word) if is(word, "error") => true,
        Some(_) => return Err(CommandError::new("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
    };
    if args.len() > 4 {
        return Err(text::subcommand_syntax(args));
    }
    Ok(Unblock { id: parse_i64(args[2]).ok_or(NOT_INTEGER)?, with_error })
}

/// CLIENT HELP.
pub fn help(reply: &mut Reply) {
    text::help("CLIENT", HELP, reply);
}

const HELP: &[&str] = &[
    "GETREDIR",
    "    Return the client ID we are redirecting to when tracking is enabled.",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections. Options are:",
    "    * ADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made from the specified address",
    "    * LADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made to specified local address",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Kill connections by type.",
    "    * USER <username>",
    "      Kill connections authenticated by <username>.",
    "    * SKIPME (YES|NO)",
    "      Skip killing current connection (default: yes).",
    "LIST [options ...]",
    "    Return information about client connections. Options:",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Return clients of specified type.",
    "UNPAUSE",
    "    Stop the current client pause, resuming traffic.",
    "PAUSE <timeout> [WRITE|ALL]",
    "    Suspend all, or just write, clients for <timeout> milliseconds.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "SETINFO <option> <value>",
    "    Set client meta attr. Options are:",
    "    * LIB-NAME: the client lib name.",
    "    * LIB-VER: the client lib version.",
    "UNBLOCK <clientid> [TIMEOUT|ERROR]",
    "    Unblock the specified blocked client.",
    "NO-EVICT (ON|OFF)",
    "    Protect current client connection from eviction.",
    "NO-TOUCH (ON|OFF)",
    "    Will not touch LRU/LFU stats when this mode is on.",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<&[u8]> {
        line.split(' ').map(str::as_bytes).collect()
    }

    fn error<T: std::fmt::Debug>(result: Result<T, CommandError>) -> String {
        result.expect_err("these words are wrong").0.into_owned()
    }

    #[test]
    fn a_line_has_all_fields_of_redis_7_2() {
        let facts = ClientFacts {
            id: 7,
            addr: "127.0.0.1:47796".into(),
            laddr: "127.0.0.1:6379".into(),
            fd: 8,
            query_bytes: 26,
            query_free_bytes: 20448,
            argv_bytes: 10,
            total_bytes: 37658,
            last_command: "client|list".into(),
            resp: 2,
            lib_name: "redis-py".into(),
            ..ClientFacts::default()
        };
        assert_eq!(
            facts.line(),
            "id=7 addr=127.0.0.1:47796 laddr=127.0.0.1:6379 fd=8 name= age=0 idle=0 flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 \
             qbuf=26 qbuf-free=20448 argv-mem=10 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=37658 events=r \
             cmd=client|list user=default redir=-1 resp=2 lib-name=redis-py lib-ver=\n"
        );
        let facts = ClientFacts { multi: Some(0), is_dirty: true, subscriptions: 1, ..ClientFacts::default() };
        assert!(
            facts.line().contains(" flags=Pxd ")
                && facts.line().contains(" multi=0 ")
                && facts.line().contains("cmd=NULL")
        );
    }

    #[test]
    fn kill_reads_old_and_new_form() {
        let me = ClientFacts { id: 1, addr: "a:1".into(), laddr: "l:1".into(), ..ClientFacts::default() };
        let other = ClientFacts { id: 2, addr: "a:2".into(), subscriptions: 1, ..me.clone() };
        for (line, kills_me, kills_other) in [
            ("client kill a:1", true, false),
            ("client kill a:2", false, true),
            ("client kill id 2 type pubsub", false, true),
            ("client kill id 1", false, false),
            ("client kill id 1 skipme no", true, false),
            ("client kill user default laddr l:1", false, true),
            ("client kill TYPE normal SKIPME no", true, false),
            ("client kill addr a:1 skipme no id 2", false, false),
        ] {
            let filter = parse_kill(&words(line)).expect("valid");
            assert_eq!((filter.matches(&me, 1), filter.matches(&other, 1)), (kills_me, kills_other), "{line}");
        }
        for (line, text) in [
            ("client kill id 0 skipme no", "ERR client-id should be greater than 0"),
            ("client kill id x id 1", "ERR client-id should be greater than 0"),
            ("client kill type foo id 1", "ERR Unknown client type 'foo'"),
            ("client kill skipme maybe id 1", "ERR syntax error"),
            ("client kill id 1 foo", "ERR syntax error"),
            ("client kill foo bar", "ERR syntax error"),
        ] {
            assert_eq!(error(parse_kill(&words(line))), text, "{line}");
        }
    }

    #[test]
    fn the_other_subcommands_read_their_words_as_redis_does() {
        assert_eq!(parse_list(&words("client list")), Ok(ListFilter::All));
        assert_eq!(parse_list(&words("client list type slave")), Ok(ListFilter::Type(ClientType::Replica)));
        assert_eq!(parse_list(&words("client list id 3 -1 1")), Ok(ListFilter::Ids(vec![3, 1])));
        assert_eq!(error(parse_list(&words("client list id x"))), "ERR Invalid client ID");
        assert_eq!(error(parse_list(&words("client list id"))), "ERR syntax error");
        assert_eq!(error(parse_list(&words("client list type normal x"))), "ERR syntax error");
        assert_eq!(parse_reply(&words("client reply Skip")), Ok(ReplyMode::Skip));
        assert_eq!(error(parse_reply(&words("client reply foo"))), "ERR syntax error");
        assert_eq!(parse_on_off(&words("client no-evict on")), Ok(true));
        assert_eq!(parse_setinfo(&words("client setinfo LIB-NAME x")), Ok(SetInfo::LibName(b"x")));
        assert_eq!(error(parse_setinfo(&words("client setinfo a b"))), "ERR Unrecognized option 'a'");
        let spaced = "ERR lib-Ver cannot contain spaces, newlines or special characters.";
        assert_eq!(error(parse_setinfo(&[b"client", b"setinfo", b"lib-Ver", b"a b"])), spaced);
        assert_eq!(parse_pause(&words("client pause 5 write")), Ok(Pause { milliseconds: 5, all: false }));
        assert_eq!(error(parse_pause(&words("client pause x"))), "ERR timeout is not an integer or out of range");
        assert_eq!(error(parse_pause(&words("client pause -1"))), "ERR timeout is negative");
        assert_eq!(error(parse_pause(&words("client pause 1 foo"))), "ERR CLIENT PAUSE mode must be WRITE or ALL");
        assert_eq!(parse_unblock(&words("client unblock 9 error")), Ok(Unblock { id: 9, with_error: true }));
        assert_eq!(error(parse_unblock(&words("client unblock x"))), "ERR value is not an integer or out of range");
        let reason = "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR";
        assert_eq!(error(parse_unblock(&words("client unblock 1 foo"))), reason);
        assert_eq!(validate_name(b""), Ok(()));
        assert!(
            validate_name(b"a b").is_err() && validate_name(b"a\n").is_err() && validate_name(b"\xc3\xa4").is_err()
        );
    }
}
