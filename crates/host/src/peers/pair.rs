//! What this node knows of one other: what waits for it, and whether the two links of the pair stand.
//!
//! ```text
//!            our link up            its link up, and each directory knows the other
//!   neither ───────────▶ one ───────────────────▶ both: link(up)
//!                                                   │ either ends
//!   neither ◀── both are ended, link(down) ─────────┘
//! ```
//!
//! Who is newer than a directory may send the log to it meanwhile, which will tell of him.
//!
//! A pair that was up ends as a whole: the other link is ended too, and both are made anew. So whatever one end has forgotten, the
//! other has forgotten as well, and nothing that was sent before comes after.
//!
//! **Invariant:** the handler's `link` and `message` of one node are called under one lock, so they have an order; the queue is closed
//! before `link(down)` is said, so nothing is taken that nobody will hear of.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::{Limit, NodeId};
use bytes::Bytes;
use consensus::Envelope;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::handler::{Handler, Message};
use super::{AskError, KeyPin, LinkStatus, Settings};

/// Bytes of messages that may wait for one node, of each lane; one more is always let in, however large, so that a large one is not shut out by small ones.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Questions to one node that may wait for their answers, and of one node that may be thought about.
pub const ASKS_MAX: usize = 1024;

/// What waits, in order, with the bytes that each item counts: consensus, and everything else. Each keeps its order; a long answer to a client
/// must not keep a heartbeat waiting until there is an election.
pub type Lanes = [VecDeque<(usize, Item)>; 2];
/// The lane of consensus.
pub const RAFT: usize = 0;
/// The other one.
pub const OTHERS: usize = 1;

/// What waits to be sent.
pub enum Item {
    Raft(Envelope),
    Forward(Bytes),
    Ask(u64, Bytes),
}

struct Asked {
    sent: bool,
    answer: oneshot::Sender<Result<Bytes, AskError>>,
}

#[derive(Default)]
struct Queue {
    /// The number of our link, 0 while it is down.
    link: u64,
    /// Both links stand.
    paired: bool,
    items: Lanes,
    /// Of what waits and of what is being written, by lane.
    bytes: [usize; 2],
    overflowed: bool,
    asked: BTreeMap<u64, Asked>,
}

/// A link that stands.
struct Standing {
    number: u64,
    stop: Arc<Notify>,
    /// Whether the end that did not dial knows the one that did.
    known: bool,
}

#[derive(Default)]
struct Pair {
    ours: Option<Standing>,
    its: Option<Standing>,
    up: Option<Instant>,
    removed: bool,
}

/// Where it is, and what it has to show.
#[derive(Debug, Default)]
pub struct Place {
    /// What the directory says.
    pub told: Vec<String>,
    /// What it says itself, or another node of it.
    pub learned: Vec<String>,
    /// Its key.
    pub pin: Option<KeyPin>,
    /// Whether the directory names it. If not, it may send the log only.
    pub member: bool,
}

/// Figures of the two links; see [`LinkStatus`].
#[derive(Default)]
pub struct Figures {
    pub bytes_out: AtomicU64,
    pub bytes_in: AtomicU64,
    pub messages_out: AtomicU64,
    pub messages_in: AtomicU64,
    pub connects: AtomicU64,
    /// Microseconds; 0: not measured yet.
    pub rtt: AtomicU64,
    /// When something last came on our link, and on its: microseconds since `born`.
    pub heard_ours: AtomicU64,
    pub heard_its: AtomicU64,
    /// The last error and the last address.
    pub words: Mutex<(String, String)>,
}

/// What came of handing a message over.
#[derive(Debug, PartialEq, Eq)]
pub enum Handed {
    /// The handler has it.
    Over,
    /// The link it came on is not the one that counts any more.
    Stale,
    /// It is not for a pair that is only half up: wait for [`Peer::paired`].
    Early,
}

/// One other node.
pub struct Peer {
    pub node: NodeId,
    pub place: Mutex<Place>,
    pub figures: Figures,
    /// Something waits to be sent.
    pub wake: Notify,
    /// The pair has come up.
    pub paired: Notify,
    /// The directory has come to know it.
    pub met: Notify,
    /// Dial now: something is new.
    pub kick: Notify,
    born: Instant,
    queue: Mutex<Queue>,
    pair: Mutex<Pair>,
    numbers: AtomicU64,
}

impl Peer {
    pub fn new(node: NodeId, place: Place) -> Peer {
        Peer {
            node,
            place: Mutex::new(place),
            figures: Figures::default(),
            wake: Notify::new(),
            paired: Notify::new(),
            met: Notify::new(),
            kick: Notify::new(),
            born: Instant::now(),
            queue: Mutex::default(),
            pair: Mutex::default(),
            numbers: AtomicU64::new(1),
        }
    }

    /// Microseconds since this peer is known.
    pub fn clock(&self) -> u64 {
        self.born.elapsed().as_micros() as u64
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// See [`super::Peers::send`].
    pub fn send(&self, message: Message, settings: &Settings) -> bool {
        let mut queue = self.queue.lock();
        let (ready, bytes) = match &message {
            Message::Raft(envelope) => (queue.link != 0, envelope.encoded_len()),
            Message::Forward(bytes) => (queue.link != 0 && queue.paired, bytes.len()),
        };
        if bytes >= super::frame::FRAME_BYTES_MAX {
            settings.limits.hit(Limit::peer_frame_bytes_max);
            return false;
        }
        if !ready {
            return false;
        }
        let item = match message {
            Message::Raft(envelope) => Item::Raft(envelope),
            Message::Forward(bytes) => Item::Forward(bytes),
        };
        self.push(&mut queue, bytes, item, settings)
    }

    fn push(&self, queue: &mut Queue, bytes: usize, item: Item, settings: &Settings) -> bool {
        let first = queue.items.iter().all(VecDeque::is_empty);
        let lane = if matches!(item, Item::Raft(_)) { RAFT } else { OTHERS };
        if queue.bytes[lane] >= QUEUE_BYTES_MAX {
            settings.limits.hit(Limit::peer_queue_bytes_max);
            if !std::mem::replace(&mut queue.overflowed, true) {
                self.wake.notify_one();
            }
            return false;
        }
        queue.bytes[lane] += bytes;
        queue.items[lane].push_back((bytes, item));
        if first {
            self.wake.notify_one();
        }
        true
    }

    /// Queues a question. Dropping the answer's end takes it back, if it has not been sent.
    pub fn ask(
        &self,
        request: Bytes,
        settings: &Settings,
    ) -> Result<(u64, oneshot::Receiver<Result<Bytes, AskError>>), AskError> {
        let mut queue = self.queue.lock();
        if queue.link == 0 || request.len() >= super::frame::FRAME_BYTES_MAX - 8 {
            return Err(AskError::NotSent);
        }
        if queue.asked.len() >= ASKS_MAX {
            settings.limits.hit(Limit::peer_asks_max);
            return Err(AskError::NotSent);
        }
        let (number, (answer, answered)) = (self.number(), oneshot::channel());
        if !self.push(&mut queue, request.len(), Item::Ask(number, request), settings) {
            return Err(AskError::NotSent);
        }
        queue.asked.insert(number, Asked { sent: false, answer });
        Ok((number, answered))
    }

    /// Nobody waits for the answer any more. What is known of the question.
    pub fn forget(&self, number: u64) -> AskError {
        match self.queue.lock().asked.remove(&number) {
            Some(Asked { sent: false, .. }) => AskError::NotSent,
            _ => AskError::Unknown,
        }
    }

    /// The question is about to be written, unless nobody waits for its answer.
    pub fn is_asked(&self, number: u64) -> bool {
        self.queue.lock().asked.get_mut(&number).map(|asked| asked.sent = true).is_some()
    }

    /// The answer has come.
    pub fn answered(&self, number: u64, answer: Bytes) {
        if let Some(asked) = self.queue.lock().asked.remove(&number) {
            // He may have stopped waiting at this moment.
            let _ = asked.answer.send(Ok(answer));
        }
    }

    /// Puts all that waits behind what was taken before, and whether something was turned away since. `None`: the link with this number
    /// is down.
    pub fn take(&self, number: u64, into: &mut Lanes) -> Option<bool> {
        let mut queue = self.queue.lock();
        if queue.link != number {
            return None;
        }
        for (waiting, taken) in queue.items.iter_mut().zip(into) {
            match taken.is_empty() {
                true => std::mem::swap(waiting, taken),
                false => taken.append(waiting),
            }
        }
        Some(std::mem::take(&mut queue.overflowed))
    }

    /// So many bytes of what was taken have been written.
    pub fn written(&self, number: u64, bytes: [usize; 2]) {
        let mut queue = self.queue.lock();
        if queue.link == number {
            queue.bytes.iter_mut().zip(bytes).for_each(|(waiting, written)| *waiting -= written);
        }
    }

    /// Nothing is taken any more; what waits is lost, and what was asked has no answer.
    fn close(&self) {
        let asked = {
            let mut queue = self.queue.lock();
            let fresh = Queue { overflowed: false, ..Queue::default() };
            std::mem::replace(&mut *queue, fresh).asked
        };
        for asked in asked.into_values() {
            let _ = asked.answer.send(Err(if asked.sent { AskError::Unknown } else { AskError::NotSent }));
        }
    }

    /// Our link stands, and at its other end we are known or not. Its number, or none if the node was removed meanwhile.
    pub fn ours_up(&self, stop: Arc<Notify>, known: bool, handler: &dyn Handler) -> Option<u64> {
        let mut pair = self.pair.lock();
        if pair.removed {
            return None;
        }
        let number = self.number();
        pair.ours = Some(Standing { number, stop, known });
        self.queue.lock().link = number;
        self.figures.heard_ours.store(self.clock(), Ordering::Relaxed);
        self.figures.connects.fetch_add(1, Ordering::Relaxed);
        self.join(&mut pair, handler);
        Some(number)
    }

    /// The other end of our link has come to know us.
    pub fn ours_known(&self, number: u64, handler: &dyn Handler) {
        let mut pair = self.pair.lock();
        if let Some(ours) = pair.ours.as_mut().filter(|ours| ours.number == number) {
            ours.known = true;
            self.join(&mut pair, handler);
        }
    }

    /// The directory has come to know it.
    pub fn meet(&self, handler: &dyn Handler) {
        let mut pair = self.pair.lock();
        if let Some(its) = pair.its.as_mut() {
            its.known = true;
        }
        self.met.notify_waiters();
        self.join(&mut pair, handler);
    }

    /// Whether the directory knows it.
    pub fn is_member(&self) -> bool {
        self.place.lock().member
    }

    /// Our link has ended.
    pub fn ours_down(&self, number: u64, handler: &dyn Handler) {
        let mut pair = self.pair.lock();
        if pair.ours.as_ref().is_some_and(|ours| ours.number == number) {
            self.part(&mut pair, handler);
            self.drop_ours(&mut pair, handler);
        }
    }

    /// Its link stands; one that stood before is ended.
    pub fn its_up(&self, stop: Arc<Notify>, handler: &dyn Handler) -> Option<u64> {
        let mut pair = self.pair.lock();
        if pair.removed {
            return None;
        }
        self.part(&mut pair, handler);
        if let Some(before) = pair.its.take() {
            before.stop.notify_one();
        }
        let number = self.number();
        pair.its = Some(Standing { number, stop, known: self.is_member() });
        self.figures.heard_its.store(self.clock(), Ordering::Relaxed);
        self.join(&mut pair, handler);
        Some(number)
    }

    /// Its link has ended.
    pub fn its_down(&self, number: u64, handler: &dyn Handler) {
        let mut pair = self.pair.lock();
        if pair.its.as_ref().is_some_and(|its| its.number == number) {
            self.part(&mut pair, handler);
            pair.its = None;
        }
    }

    /// The node belongs to the cluster no more.
    pub fn remove(&self, handler: &dyn Handler) {
        let mut pair = self.pair.lock();
        pair.removed = true;
        self.part(&mut pair, handler);
        if let Some(its) = pair.its.take() {
            its.stop.notify_one();
        }
        self.drop_ours(&mut pair, handler);
        self.kick.notify_one();
    }

    /// Whether [`Peer::remove`] was said.
    pub fn is_removed(&self) -> bool {
        self.pair.lock().removed
    }

    fn join(&self, pair: &mut Pair, handler: &dyn Handler) {
        let stands = |link: &Option<Standing>| link.as_ref().is_some_and(|link| link.known);
        if stands(&pair.ours) && stands(&pair.its) && pair.up.is_none() {
            pair.up = Some(Instant::now());
            self.queue.lock().paired = true;
            handler.link(self.node, true);
            self.paired.notify_waiters();
        }
    }

    fn part(&self, pair: &mut Pair, handler: &dyn Handler) {
        if pair.up.take().is_none() {
            return;
        }
        if let Some(its) = pair.its.take() {
            its.stop.notify_one();
        }
        self.drop_ours(pair, handler);
        handler.link(self.node, false);
    }

    fn drop_ours(&self, pair: &mut Pair, handler: &dyn Handler) {
        if let Some(ours) = pair.ours.take() {
            ours.stop.notify_one();
            self.close();
            handler.unreachable(self.node);
        }
    }

    /// Hands over what came on its link with this number.
    pub fn hand(&self, number: u64, message: &mut Option<Message>, handler: &dyn Handler) -> Handed {
        let pair = self.pair.lock();
        if pair.its.as_ref().is_none_or(|its| its.number != number) {
            return Handed::Stale;
        }
        if pair.up.is_none() && matches!(message, Some(Message::Forward(_))) {
            return Handed::Early;
        }
        if let Some(message) = message.take() {
            handler.message(self.node, message);
        }
        Handed::Over
    }

    /// Why there is no link, in words.
    pub fn fail(&self, why: &str) {
        self.figures.words.lock().0 = why.to_owned();
    }

    /// For people.
    pub fn status(&self) -> LinkStatus {
        let now = self.clock();
        let (out_up, in_up, up_for) = {
            let pair = self.pair.lock();
            (pair.ours.is_some(), pair.its.is_some(), pair.up.map(|up| up.elapsed()))
        };
        let figures = &self.figures;
        let of = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let heard = of(&figures.heard_ours).max(of(&figures.heard_its));
        let rtt = of(&figures.rtt);
        let words = figures.words.lock();
        LinkStatus {
            node: self.node.0,
            address: words.1.clone(),
            out_up,
            in_up,
            up_for,
            heard: (heard != 0).then(|| Duration::from_micros(now.saturating_sub(heard))),
            rtt: (rtt != 0).then(|| Duration::from_micros(rtt)),
            bytes_out: of(&figures.bytes_out),
            bytes_in: of(&figures.bytes_in),
            messages_out: of(&figures.messages_out),
            messages_in: of(&figures.messages_in),
            queued_bytes: self.queue.lock().bytes.iter().sum::<usize>() as u64,
            connects: of(&figures.connects),
            error: words.0.clone(),
        }
    }
}
