//! Watches: who wants to hear of which keys, and how they are told.
//!
//! One task tells all watchers of this node after each change ([`Hub::tell`]); an event is encoded once, however many hear of it. What
//! waits for one client is bounded: a watcher whose client is slow falls *behind*, and is served from the store's own history once its
//! client has taken what waits. If that has been compacted meanwhile, it is told so and is over.
//!
//! All events of a revision come together, revisions in order, each once; progress is only told where nothing is behind it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes};
use coordination::proto::{DELETE, Event, ResponseHeader, WatchCreateRequest, WatchKind, WatchRequest, WatchResponse};
use coordination::store::{Change, Store};
use coordination::{Error, Span, error};
use parking_lot::Mutex;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use shard::live::Shard;

use crate::resp::door::Client;

/// Watchers of one node.
pub const WATCHERS_MAX: usize = 100_000;
/// Bytes of events that wait for one stream's client; beyond it its watchers fall behind. A single revision may be larger.
pub const WAITING_BYTES_MAX: usize = 4 << 20;
/// Bytes of events in one message, where the client takes them in fragments.
const FRAGMENT_BYTES: usize = 3 << 19;
/// Changes that are looked at, and events that are told, while changes have to wait.
const LOOKED_AT_ONCE: usize = 4096;
const TOLD_AT_ONCE: usize = 1000;

/// An event, encoded when somebody wants it.
#[derive(Debug)]
struct Told {
    event: Event,
    /// With and without what was before.
    forms: [OnceLock<Vec<u8>>; 2],
}

impl Told {
    fn of(store: &Store, change: &Change) -> Option<Arc<Told>> {
        let (version, before) = store.change(change)?;
        let event = Event {
            kind: if version.is_tombstone() { DELETE } else { 0 },
            kv: Some(version.to_proto(&change.key)),
            prev_kv: before.map(|before| before.to_proto(&change.key)),
        };
        Some(Arc::new(Told { event, forms: Default::default() }))
    }

    fn form(&self, with_prev: bool) -> &[u8] {
        self.forms[usize::from(with_prev)].get_or_init(|| {
            if with_prev || self.event.prev_kv.is_none() {
                return self.event.encode_to_vec();
            }
            Event { prev_kv: None, ..self.event.clone() }.encode_to_vec()
        })
    }

    fn bytes(&self) -> usize {
        let of =
            |kv: &Option<coordination::proto::KeyValue>| kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len() + 48);
        of(&self.event.kv) + of(&self.event.prev_kv)
    }
}

/// What waits for a client.
#[derive(Debug)]
enum Parcel {
    Message(Box<WatchResponse>),
    Events { watch: i64, revision: i64, with_prev: bool, fragments: bool, events: VecDeque<Arc<Told>> },
}

#[derive(Debug, Default)]
struct Mail {
    out: VecDeque<Parcel>,
    bytes: usize,
    behind: BTreeSet<u64>,
    wants_progress: bool,
    waker: Option<Waker>,
}

impl Mail {
    fn message(&mut self, message: WatchResponse) {
        self.out.push_back(Parcel::Message(Box::new(message)));
    }
}

#[derive(Debug)]
struct Watcher {
    mail: Arc<Mutex<Mail>>,
    /// The client's number of it.
    number: i64,
    key: Bytes,
    end: Bytes,
    /// The first revision that it has not been told of, where it is behind; else nothing before this one concerns it.
    from: i64,
    is_behind: bool,
    puts: bool,
    deletes: bool,
    with_prev: bool,
    fragments: bool,
}

impl Watcher {
    fn span(&self) -> Span<'_> {
        Span::of(&self.key, &self.end)
    }

    fn wants(&self, told: &Told) -> bool {
        if told.event.kind == DELETE { self.deletes } else { self.puts }
    }

    fn parcel(&self, revision: i64, events: VecDeque<Arc<Told>>) -> Parcel {
        Parcel::Events { watch: self.number, revision, with_prev: self.with_prev, fragments: self.fragments, events }
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// Everybody who is not behind has been told up to here.
    told: i64,
    watchers: BTreeMap<u64, Watcher>,
    keys: BTreeMap<Bytes, BTreeSet<u64>>,
    ranges: BTreeSet<u64>,
    next: u64,
}

impl Inner {
    fn remove(&mut self, id: u64) -> Option<Watcher> {
        let watcher = self.watchers.remove(&id)?;
        if watcher.end.is_empty() {
            if let Some(ids) = self.keys.get_mut(&watcher.key) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.keys.remove(&watcher.key);
                }
            }
        } else {
            self.ranges.remove(&id);
        }
        watcher.mail.lock().behind.remove(&id);
        Some(watcher)
    }

    /// One revision's events to all whom they concern.
    fn deliver(&mut self, revision: i64, events: &[Arc<Told>], wakers: &mut Vec<Waker>) {
        let mut hits: BTreeMap<u64, VecDeque<Arc<Told>>> = BTreeMap::new();
        for told in events {
            let key = told.event.kv.as_ref().map_or(&[][..], |kv| &kv.key);
            let exact = self.keys.get(key).into_iter().flatten();
            let ranges = self.ranges.iter().filter(|id| self.watchers.get(id).is_some_and(|own| own.span().has(key)));
            for id in exact.chain(ranges) {
                let Some(watcher) = self.watchers.get(id) else {
                    continue;
                };
                if !watcher.is_behind && revision >= watcher.from && watcher.wants(told) {
                    hits.entry(*id).or_default().push_back(told.clone());
                }
            }
        }
        for (id, events) in hits {
            let watcher = self.watchers.get_mut(&id).expect("it was hit above");
            let mut mail = watcher.mail.lock();
            if mail.bytes > WAITING_BYTES_MAX {
                (watcher.is_behind, watcher.from) = (true, revision);
                mail.behind.insert(id);
                continue;
            }
            mail.bytes += events.iter().map(|told| told.bytes()).sum::<usize>();
            mail.out.push_back(watcher.parcel(revision, events));
            wakers.extend(mail.waker.take());
        }
    }
}

/// All watchers of a node.
pub struct Hub {
    shard: Arc<Shard<Client>>,
    inner: Mutex<Inner>,
}

impl Hub {
    pub(super) fn new(shard: Arc<Shard<Client>>) -> Hub {
        let told = shard.state().coordination().store().revision();
        Hub { shard, inner: Mutex::new(Inner { told, ..Inner::default() }) }
    }

    /// How many there are, and how many of them are behind.
    pub fn figures(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.watchers.len(), inner.watchers.values().filter(|watcher| watcher.is_behind).count())
    }

    /// The revision up to which everybody has been told.
    pub fn told(&self) -> i64 {
        self.inner.lock().told
    }

    /// Tells of what has changed. To be called after every change.
    pub fn tell(&self) {
        loop {
            let mut wakers = Vec::new();
            let mut inner = self.inner.lock();
            let is_more = self.tell_some(&mut inner, &mut wakers);
            drop(inner);
            wakers.into_iter().for_each(Waker::wake);
            if !is_more {
                return;
            }
        }
    }

    fn tell_some(&self, inner: &mut Inner, wakers: &mut Vec<Waker>) -> bool {
        let mut revisions: Vec<(i64, Vec<Arc<Told>>)> = Vec::new();
        let (now, mut is_more) = {
            let state = self.shard.state();
            let store = state.coordination().store();
            let now = store.revision();
            if inner.watchers.is_empty() {
                inner.told = now;
                return false;
            }
            if inner.told + 1 < store.compacted() {
                // What they have not been told of is gone; each finds out for itself.
                let from = inner.told + 1;
                for (id, watcher) in &mut inner.watchers {
                    if !watcher.is_behind && watcher.from < store.compacted() {
                        (watcher.is_behind, watcher.from) = (true, watcher.from.max(from));
                        let mut mail = watcher.mail.lock();
                        mail.behind.insert(*id);
                        wakers.extend(mail.waker.take());
                    }
                }
                inner.told = store.compacted() - 1;
            }
            let (mut count, mut is_more) = (0, false);
            for change in store.changes(inner.told + 1) {
                match revisions.last_mut() {
                    Some((revision, events)) if *revision == change.main => events.extend(Told::of(store, change)),
                    _ if count >= TOLD_AT_ONCE => {
                        is_more = true;
                        break;
                    }
                    _ => revisions.push((change.main, Told::of(store, change).into_iter().collect())),
                }
                count += 1;
            }
            (now, is_more)
        };
        for (revision, events) in &revisions {
            inner.deliver(*revision, events, wakers);
            inner.told = *revision;
        }
        if !is_more {
            inner.told = now;
        } else if revisions.is_empty() {
            is_more = false;
        }
        is_more
    }

    fn create(&self, stream: &Stream, id: i64, request: WatchCreateRequest) -> WatchResponse {
        let mut inner = self.inner.lock();
        let revision = self.shard.state().coordination().store().revision();
        let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
        if inner.watchers.len() >= WATCHERS_MAX {
            let why = "etcdserver: too many watchers on this node".to_owned();
            return refused(header, id, why);
        }
        let from = if request.start_revision <= 0 { revision + 1 } else { request.start_revision };
        let is_behind = from <= inner.told;
        inner.next += 1;
        let own = inner.next;
        let key = if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key };
        let watcher = Watcher {
            mail: stream.mail.clone(),
            number: id,
            key: key.clone(),
            end: request.range_end.clone(),
            from,
            is_behind,
            puts: !request.filters.contains(&0),
            deletes: !request.filters.contains(&1),
            with_prev: request.prev_kv,
            fragments: request.fragment,
        };
        if request.range_end.is_empty() {
            inner.keys.entry(key).or_default().insert(own);
        } else {
            inner.ranges.insert(own);
        }
        inner.watchers.insert(own, watcher);
        let mut mail = stream.mail.lock();
        if is_behind {
            mail.behind.insert(own);
        }
        let response = WatchResponse { header, watch_id: id, created: true, ..WatchResponse::default() };
        mail.message(response);
        WatchResponse { watch_id: own as i64, ..WatchResponse::default() }
    }

    /// Serves one that is behind from the history. True where there is more to do at once.
    fn catch_up(&self, id: u64) -> Option<i64> {
        let mut inner = self.inner.lock();
        let told = inner.told;
        let watcher = inner.watchers.get_mut(&id)?;
        let mut events = VecDeque::new();
        let (mut bytes, mut next) = (0, told + 1);
        let compacted = {
            let state = self.shard.state();
            let store = state.coordination().store();
            if watcher.from < store.compacted() {
                Some((store.compacted(), store.revision()))
            } else {
                let mut last = watcher.from - 1;
                for (count, change) in store.changes(watcher.from).take_while(|change| change.main <= told).enumerate()
                {
                    if change.main > last {
                        if count >= LOOKED_AT_ONCE || events.len() >= TOLD_AT_ONCE || bytes >= WAITING_BYTES_MAX {
                            next = change.main;
                            break;
                        }
                        last = change.main;
                    }
                    if watcher.span().has(&change.key)
                        && let Some(told) = Told::of(store, change)
                        && watcher.wants(&told)
                    {
                        bytes += told.bytes();
                        events.push_back(told);
                    }
                }
                None
            }
        };
        if let Some((compacted, revision)) = compacted {
            let watcher = inner.remove(id)?;
            watcher.mail.lock().message(WatchResponse {
                header: Some(ResponseHeader { revision, ..ResponseHeader::default() }),
                watch_id: watcher.number,
                canceled: true,
                compact_revision: compacted,
                cancel_reason: error::COMPACTED.text.into_owned(),
                ..WatchResponse::default()
            });
            return Some(watcher.number);
        }
        watcher.from = next;
        let mut mail = watcher.mail.lock();
        if !events.is_empty() {
            mail.bytes += bytes;
            let parcel = watcher.parcel(told, events);
            mail.out.push_back(parcel);
        }
        if next > told {
            watcher.is_behind = false;
            mail.behind.remove(&id);
        }
        None
    }

    fn progress(&self, mail: &Mutex<Mail>) {
        let inner = self.inner.lock();
        let mut mail = mail.lock();
        if !mail.behind.is_empty() {
            mail.wants_progress = true;
            return;
        }
        mail.wants_progress = false;
        mail.message(WatchResponse {
            header: Some(ResponseHeader { revision: inner.told, ..ResponseHeader::default() }),
            watch_id: -1,
            ..WatchResponse::default()
        });
    }
}

fn refused(header: Option<ResponseHeader>, watch_id: i64, why: String) -> WatchResponse {
    WatchResponse { header, watch_id, created: true, canceled: true, cancel_reason: why, ..WatchResponse::default() }
}

/// One client's stream of watches.
pub struct Stream {
    hub: Arc<Hub>,
    mail: Arc<Mutex<Mail>>,
    user: String,
    /// The hub's numbers by the client's; and whether it wants to hear when nothing happens.
    own: BTreeMap<i64, (u64, bool)>,
    next: i64,
    /// What was said since the last heartbeat.
    is_quiet: bool,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.hub.inner.lock();
        for (id, _) in self.own.values() {
            inner.remove(*id);
        }
    }
}

impl Stream {
    pub(super) fn new(hub: Arc<Hub>, user: String) -> Stream {
        Stream { hub, mail: Arc::default(), user, own: BTreeMap::new(), next: 0, is_quiet: true }
    }

    /// Takes a request.
    ///
    /// # Errors
    /// It is none.
    pub fn take(&mut self, message: Bytes) -> Result<(), Error> {
        let request = WatchRequest::decode(message).map_err(|_| super::UNREADABLE)?;
        match request.request {
            Some(WatchKind::Create(request)) => self.create(request),
            Some(WatchKind::Cancel(request)) => {
                if let Some((id, _)) = self.own.remove(&request.watch_id) {
                    self.hub.inner.lock().remove(id);
                    let header = Some(ResponseHeader { revision: self.hub.told(), ..ResponseHeader::default() });
                    self.mail.lock().message(WatchResponse {
                        header,
                        watch_id: request.watch_id,
                        canceled: true,
                        ..WatchResponse::default()
                    });
                }
            }
            Some(WatchKind::Progress(_)) => self.hub.progress(&self.mail),
            None => {}
        }
        Ok(())
    }

    fn create(&mut self, request: WatchCreateRequest) {
        let permitted = {
            let state = self.hub.shard.state();
            let key = if request.key.is_empty() { &[0][..] } else { &request.key };
            state.coordination().auth().may(&self.user, Span::of(key, &request.range_end), false)
        };
        let header = || Some(ResponseHeader { revision: self.hub.told(), ..ResponseHeader::default() });
        if let Err(why) = permitted {
            let response = refused(header(), -1, why.text.into_owned());
            return self.mail.lock().message(response);
        }
        let id = match request.watch_id {
            0 => {
                while self.own.contains_key(&self.next) {
                    self.next += 1;
                }
                self.next += 1;
                self.next - 1
            }
            id if self.own.contains_key(&id) => {
                let why = "mvcc: duplicate watch ID provided on the WatchStream".to_owned();
                let response = refused(header(), -1, why);
                return self.mail.lock().message(response);
            }
            id => id,
        };
        let notify = request.progress_notify;
        let response = self.hub.create(self, id, request);
        if response.canceled {
            self.mail.lock().message(response);
        } else {
            self.own.insert(id, (response.watch_id as u64, notify));
        }
    }

    /// To be called every ten minutes: those who asked for it hear how far they are, if they heard nothing else.
    pub fn heartbeat(&mut self) {
        let inner = self.hub.inner.lock();
        if !std::mem::replace(&mut self.is_quiet, true) {
            return;
        }
        let mut mail = self.mail.lock();
        for (number, (id, notify)) in &self.own {
            if *notify && inner.watchers.get(id).is_some_and(|own| !own.is_behind) {
                let header = Some(ResponseHeader { revision: inner.told, ..ResponseHeader::default() });
                mail.message(WatchResponse { header, watch_id: *number, ..WatchResponse::default() });
            }
        }
    }

    /// The next message. `fill` completes a header.
    pub fn poll(&mut self, context: &mut Context<'_>, fill: impl Fn(&mut ResponseHeader)) -> Poll<Vec<u8>> {
        for _ in 0..64 {
            let mut mail = self.mail.lock();
            if let Some(parcel) = mail.out.pop_front() {
                self.is_quiet = false;
                let message = match parcel {
                    Parcel::Message(mut response) => {
                        if let Some(header) = &mut response.header {
                            fill(header);
                        }
                        response.encode_to_vec()
                    }
                    Parcel::Events { watch, revision, with_prev, fragments, mut events } => {
                        let mut header = ResponseHeader { revision, ..ResponseHeader::default() };
                        fill(&mut header);
                        let mut bytes = 0;
                        let mut count = 0;
                        for told in &events {
                            let more = told.form(with_prev).len();
                            if fragments && count > 0 && bytes + more > FRAGMENT_BYTES {
                                break;
                            }
                            (bytes, count) = (bytes + more, count + 1);
                        }
                        let rest = events.split_off(count);
                        mail.bytes = mail.bytes.saturating_sub(events.iter().map(|told| told.bytes()).sum());
                        let message = message(header, watch, !rest.is_empty(), &events, with_prev, bytes);
                        if !rest.is_empty() {
                            let parcel = Parcel::Events { watch, revision, with_prev, fragments, events: rest };
                            mail.out.push_front(parcel);
                        }
                        message
                    }
                };
                return Poll::Ready(message);
            }
            let Some(id) = mail.behind.first().copied() else {
                if mail.wants_progress {
                    drop(mail);
                    self.hub.progress(&self.mail);
                    continue;
                }
                mail.waker = Some(context.waker().clone());
                return Poll::Pending;
            };
            drop(mail);
            if let Some(over) = self.hub.catch_up(id) {
                self.own.remove(&over);
            }
        }
        // Others' turn.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A `WatchResponse` whose events are encoded already.
fn message(
    header: ResponseHeader,
    watch_id: i64,
    fragment: bool,
    events: &VecDeque<Arc<Told>>,
    with_prev: bool,
    bytes: usize,
) -> Vec<u8> {
    let head = WatchResponse { header: Some(header), watch_id, fragment, ..WatchResponse::default() };
    let mut out = Vec::with_capacity(head.encoded_len() + bytes + 8 * events.len());
    // The vector grows: this cannot fail.
    let _ = head.encode(&mut out);
    for told in events {
        let form = told.form(with_prev);
        encode_key(11, WireType::LengthDelimited, &mut out);
        encode_varint(form.len() as u64, &mut out);
        out.put_slice(form);
    }
    out
}
