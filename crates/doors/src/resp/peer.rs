//! One connected client as everybody else sees it: a mailbox for answers and messages, and what CLIENT LIST tells.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use base::Instant;
use parking_lot::Mutex;
use users::Grant;

/// What is put into a client's mailbox by the driver and by publishers, until its own task takes it.
#[derive(Debug, Default)]
struct Mail {
    bytes: Vec<u8>,
    /// Answers among the bytes.
    answers: u64,
    /// Answers ever put.
    total: u64,
    waker: Option<Waker>,
    /// Requests of a guest that were refused, nothing done, and what a client would have been told. They are no answers yet:
    /// its own node may try elsewhere.
    refused: u64,
    refusal: Vec<u8>,
    /// Something else has changed that its own node should know.
    nudged: bool,
    /// While set, answers come here: they are no client's but parts of one.
    aside: Option<Vec<u8>>,
    /// Answers that are not there yet, and what has come behind them.
    gaps: VecDeque<Gap>,
}

/// An answer that waits for a lock, or what has come behind one.
#[derive(Debug)]
enum Gap {
    Open { ticket: u64 },
    Filled { count: u64, bytes: Vec<u8> },
    Refused { line: Vec<u8> },
}

/// What is known of a client beside its session. Written by the session, read by CLIENT LIST.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// CLIENT SETNAME.
    pub name: Vec<u8>,
    /// CLIENT SETINFO LIB-NAME.
    pub lib_name: Vec<u8>,
    /// CLIENT SETINFO LIB-VER.
    pub lib_ver: Vec<u8>,
    /// Selected database.
    pub db: u8,
    /// 2 or 3.
    pub resp: u8,
    /// The last command.
    pub command: &'static str,
    /// When it was.
    pub active: Instant,
    /// Commands queued by MULTI; -1 outside.
    pub multi: i64,
    /// Watched keys.
    pub watching: usize,
    /// Bytes read but not yet understood.
    pub buffered: usize,
    /// Bytes read and written in total.
    pub traffic: (u64, u64),
    /// Who it is, and what it may do.
    pub grant: Option<Arc<Grant>>,
    /// CLIENT NO-EVICT and NO-TOUCH.
    pub no_evict: bool,
    /// See `no_evict`.
    pub no_touch: bool,
}

/// A connected client.
#[derive(Debug)]
pub struct Peer {
    /// Counted from 1 in the order of arrival.
    pub id: u64,
    /// Its address.
    pub addr: String,
    /// The address it came to.
    pub laddr: String,
    /// When it came.
    pub since: Instant,
    /// See [`Card`].
    pub card: Mutex<Card>,
    mail: Mutex<Mail>,
    /// The wait it is in, 0 for none.
    pub waiting: AtomicU64,
    closed: AtomicBool,
    /// Answers are counted but dropped (CLIENT REPLY OFF).
    pub muted: AtomicBool,
    /// Set when the outcome of a request is unknown, or by CLIENT KILL: the connection must end.
    doomed: AtomicBool,
    /// Set where `output_bytes_max` was why.
    flooded: AtomicBool,
    output_bytes_max: usize,
    /// A client of another node; see [`super::forward`].
    is_guest: bool,
}

/// Ids from here on are those of other nodes' clients on this one.
pub const GUESTS: u64 = 1 << 62;

impl PartialEq for Peer {
    fn eq(&self, other: &Peer) -> bool {
        self.id == other.id
    }
}

impl Peer {
    /// A client that has just come.
    pub fn new(id: u64, addr: String, laddr: String, since: Instant, output_bytes_max: usize) -> Peer {
        let card = Card { resp: 2, multi: -1, command: "NULL", active: since, ..Card::default() };
        Peer {
            id,
            addr,
            laddr,
            since,
            card: Mutex::new(card),
            mail: Mutex::default(),
            waiting: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            muted: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
            flooded: AtomicBool::new(false),
            output_bytes_max,
            is_guest: id >= GUESTS,
        }
    }

    /// Whether it is a client of another node.
    pub fn is_guest(&self) -> bool {
        self.is_guest
    }

    /// Says that nothing was done of its oldest request that is under way. A guest's node may try elsewhere: it is kept aside
    /// until all behind it have been refused as well; where one of them was done after all, this line is the answer.
    pub fn refuse(&self, line: &[u8]) -> Option<Waker> {
        if !self.is_guest {
            return self.answer(line);
        }
        let mut mail = self.mail.lock();
        if !mail.gaps.is_empty() {
            mail.gaps.push_back(Gap::Refused { line: line.to_vec() });
            return None;
        }
        self.take_refusal(&mut mail, line)
    }

    fn take_refusal(&self, mail: &mut Mail, line: &[u8]) -> Option<Waker> {
        mail.refused += 1;
        mail.nudged = true;
        mail.refusal.clear();
        mail.refusal.extend_from_slice(line);
        mail.waker.take()
    }

    /// The answer to the oldest request that has none yet waits under this ticket; what comes behind it waits with it.
    pub fn hold(&self, ticket: u64) {
        self.mail.lock().gaps.push_back(Gap::Open { ticket });
    }

    /// The answer that was held is here.
    pub fn fill(&self, ticket: u64, bytes: &[u8]) -> Option<Waker> {
        let mut mail = self.mail.lock();
        let is_it = |gap: &&mut Gap| matches!(gap, Gap::Open { ticket: own } if *own == ticket);
        if let Some(gap) = mail.gaps.iter_mut().find(is_it) {
            *gap = Gap::Filled { count: 1, bytes: bytes.to_vec() };
        }
        self.close_gaps(&mut mail)
    }

    /// What was held will be answered like any other.
    pub fn unhold(&self, ticket: u64) -> Option<Waker> {
        let mut mail = self.mail.lock();
        mail.gaps.retain(|gap| !matches!(gap, Gap::Open { ticket: own } if *own == ticket));
        self.close_gaps(&mut mail)
    }

    fn close_gaps(&self, mail: &mut Mail) -> Option<Waker> {
        let mut waker = None;
        while let Some(gap) = mail.gaps.pop_front() {
            let woken = match gap {
                Gap::Open { ticket } => {
                    mail.gaps.push_front(Gap::Open { ticket });
                    break;
                }
                Gap::Filled { count, bytes } => self.take_answers(mail, count, &bytes),
                Gap::Refused { line } => self.take_refusal(mail, &line),
            };
            waker = woken.or(waker);
        }
        waker
    }

    /// Answers that were ever put here.
    pub fn answered(&self) -> u64 {
        self.mail.lock().total
    }

    /// Refusals behind the last answer.
    pub fn refused(&self) -> u64 {
        self.mail.lock().refused
    }

    /// Forgets them: they have been told.
    pub fn forget_refused(&self) {
        self.mail.lock().refused = 0;
    }

    /// Has a guest looked after though it has got nothing.
    pub fn nudge(&self) -> Option<Waker> {
        let mut mail = self.mail.lock();
        mail.nudged = true;
        mail.waker.take()
    }

    /// Puts several answers at once, as another node has gathered them.
    pub fn answers(&self, count: u64, bytes: &[u8]) -> Option<Waker> {
        let mut mail = self.mail.lock();
        if !mail.gaps.is_empty() {
            mail.gaps.push_back(Gap::Filled { count, bytes: bytes.to_vec() });
            return None;
        }
        self.take_answers(&mut mail, count, bytes)
    }

    fn take_answers(&self, mail: &mut Mail, count: u64, bytes: &[u8]) -> Option<Waker> {
        if mail.refused > 0 && count > 0 {
            // What came after them was done, so they cannot be done later.
            let lines = mail.refusal.repeat(mail.refused as usize);
            mail.answers += std::mem::take(&mut mail.refused);
            let _ = self.put(mail, &lines);
        }
        mail.answers += count;
        mail.total += count;
        if let Some(aside) = &mut mail.aside {
            aside.extend_from_slice(bytes);
            return mail.waker.take();
        }
        let bytes = if self.muted.load(Ordering::Relaxed) { &[] } else { bytes };
        self.put(mail, bytes)
    }

    /// Puts an answer into the mailbox. Returns whom to wake, once, after everything has been put.
    #[inline]
    pub fn answer(&self, bytes: &[u8]) -> Option<Waker> {
        self.answers(1, bytes)
    }

    /// Puts a message that is no answer into the mailbox (pub/sub): it comes even to a client that wants no answers.
    pub fn message(&self, bytes: &[u8]) -> Option<Waker> {
        self.put(&mut self.mail.lock(), bytes)
    }

    fn put(&self, mail: &mut Mail, bytes: &[u8]) -> Option<Waker> {
        if !self.is_closed() {
            mail.bytes.extend_from_slice(bytes);
        }
        if mail.bytes.len() > self.output_bytes_max {
            // A client that does not read must not cost more memory than this.
            mail.bytes = Vec::new();
            self.flooded.store(true, Ordering::Relaxed);
            self.doomed.store(true, Ordering::Relaxed);
        }
        mail.waker.take()
    }

    /// Has answers kept aside from now on, as parts of one that the session puts together. Messages come as before.
    pub fn set_aside(&self) {
        self.mail.lock().aside = Some(Vec::new());
    }

    /// Takes what was kept aside; answers come as usual again.
    pub fn take_aside(&self) -> Vec<u8> {
        self.mail.lock().aside.take().unwrap_or_default()
    }

    /// Moves what has come to the end of `out`. Returns how many answers it held.
    pub fn collect(&self, out: &mut Vec<u8>) -> u64 {
        let mut mail = self.mail.lock();
        if out.is_empty() && mail.bytes.len() > 4096 {
            std::mem::swap(out, &mut mail.bytes);
        } else {
            out.extend_from_slice(&mail.bytes);
            mail.bytes.clear();
        }
        mail.nudged = false;
        std::mem::take(&mut mail.answers)
    }

    /// Has `waker` called when something comes. True where something is there already.
    pub fn listen(&self, waker: &Waker) -> bool {
        let mut mail = self.mail.lock();
        if mail.answers > 0 || !mail.bytes.is_empty() || mail.nudged || self.doomed.load(Ordering::Relaxed) {
            return true;
        }
        if mail.waker.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            mail.waker = Some(waker.clone());
        }
        false
    }

    /// Has `waker` called when the connection must end, and at other times too. True where it must already. For whoever is
    /// busy writing and does not take what has come.
    pub fn listen_doom(&self, waker: &Waker) -> bool {
        let mut mail = self.mail.lock();
        if mail.waker.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            mail.waker = Some(waker.clone());
        }
        self.doomed.load(Ordering::Relaxed)
    }

    /// Ends the connection: killed, or a request's outcome is unknown.
    pub fn doom(&self) {
        self.doomed.store(true, Ordering::Relaxed);
        let waker = self.mail.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether the connection must end.
    pub fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Relaxed)
    }

    /// Whether it must end because it does not read what waits for it.
    pub fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// The connection has ended; a wait that begins after this has nobody to answer.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // Who has gone may be remembered for a while, but not what it has not read.
        self.mail.lock().bytes = Vec::new();
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Bytes that wait for the client.
    pub fn outstanding(&self) -> usize {
        self.mail.lock().bytes.len()
    }
}
