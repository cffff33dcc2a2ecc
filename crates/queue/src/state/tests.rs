//! Every step goes through the stored form, and to a second replica that is now and then made anew from a snapshot: both
//! must answer alike for ever.

use store::codec::Input;
use store::extent::{ExtentId, Row, Stretch};

use super::*;
use crate::batch::example;
use crate::extents::Copying;
use crate::partition::{Isolation, Piece, Source};

mod compact;
mod groups;
mod model;
mod produce;
mod transactions;

const TOPIC: TopicId = TopicId(7 << 64 | 1);
const NOBODY: (i64, i16, i32) = (-1, -1, -1);

/// Two replicas and the bytes of their log.
struct World {
    queue: Queue,
    twin: Queue,
    log: Vec<Vec<u8>>,
    /// Extent files, each with its index.
    files: BTreeMap<ExtentId, (Vec<u8>, Vec<Stretch>)>,
    now: Millis,
}

/// What a snapshot in chunks of `bytes` gives back.
fn restored(from: &mut Queue, bytes: usize) -> Queue {
    let mut books = Vec::new();
    from.encode_books(&mut books);
    let mut whole = Queue::new(GroupId(from.group));
    whole.read_books(&mut Input::new(&books)).expect("books");
    from.begin_walk();
    loop {
        let mut chunk = Vec::new();
        let over = from.walk(bytes, &mut chunk);
        whole.restore(&chunk).expect("records");
        if over {
            break;
        }
    }
    whole.finish_restore();
    whole
}

/// All that is replicated of a queue, in words that do not depend on how it is laid out.
fn shown(queue: &Queue) -> String {
    use std::fmt::Write;
    let mut out = format!("{} {} {} {:?}\n", queue.epoch, queue.counter, queue.swept, queue.dropped);
    for (id, own) in queue.partitions() {
        let _ = writeln!(out, "{id:?} {} {} {:?} {:?}", own.start(), own.high(), own.epochs, own.aborted);
        let _ = write!(out, "{} {} ", own.cleans, own.cleaned);
        let _ = writeln!(out, "{:?} {:?} {}", own.place(), own.producers, own.stable());
    }
    let figures = Figures { rows: 0, stored_bytes: 0, memory_bytes: 0, ..queue.figures() };
    let _ = writeln!(out, "{:?}\n{:?}\n{figures:?}", queue.groups, queue.transactions);
    out
}

impl World {
    fn new() -> World {
        let new = || Queue::new(GroupId(3));
        let mut world = World { queue: new(), twin: new(), log: Vec::new(), files: BTreeMap::new(), now: 1_000_000 };
        world.lead();
        world
    }

    fn lead(&mut self) {
        self.log.push(Vec::new());
        self.queue.new_leader();
        self.twin.new_leader();
    }

    /// Applies it behind some other unit of its entry.
    fn run(&mut self, command: &Command<'_>) -> Outcome {
        let form = command.encode();
        let read = Command::decode(&form).expect("it was just written");
        assert_eq!(&read, command);
        let mut entry = vec![0xEE; 17 + self.log.len() % 50];
        let place = Place { index: self.log.len() as u64 + 1, at: entry.len() as u32 };
        entry.extend_from_slice(&form);
        let outcome = self.queue.apply(&read, form.len(), place, self.now);
        let twins = self.twin.apply(&read, form.len(), place, self.now);
        assert_eq!(outcome, twins, "replicas answer alike");
        assert_eq!(Outcome::decode(&outcome.encode()), Ok(outcome.clone()));
        self.log.push(entry);
        outcome
    }

    /// Makes the twin anew from a snapshot of the other, in chunks of so many bytes, as a node does that begins there: what the
    /// log held it reads from a file.
    fn snapshot(&mut self, bytes: usize) {
        let index = self.log.len() as u64;
        let copying = self.queue.to_copy(GroupId(3), index, 1);
        let files = copying.map(|copying| (copying.file, self.copy(&copying)));
        self.twin = restored(&mut self.queue, bytes);
        assert_eq!(shown(&self.queue), shown(&self.twin));
        if let Some((file, (bytes, stretches))) = files {
            self.twin.copied(file, &stretches);
            self.files.insert(file, (bytes, stretches));
        }
        let held: Vec<ExtentId> = self.twin.files();
        self.files.retain(|file, _| held.contains(file));
    }

    /// What the host makes of it: a file's bytes and its index, a row for every hundred bytes or more.
    fn copy(&self, copying: &Copying) -> (Vec<u8>, Vec<Stretch>) {
        let (mut file, mut stretches): (Vec<u8>, Vec<Stretch>) = Default::default();
        for run in copying.runs() {
            let bytes = self.bytes_of(&run.piece);
            let (base, position, end) = (run.piece.base, file.len() as u64, run.piece.base + run.piece.count);
            if stretches.last().is_none_or(|last| last.owner != run.owner || last.end != base) {
                let (owner, rows) = (run.owner, Vec::new());
                stretches.push(Stretch { owner, base, end: base, position, bytes: 0, rows, is_raw: false });
            }
            let own = stretches.last_mut().expect("one was pushed where there was none");
            match own.rows.last_mut() {
                Some(row) if position - row.position < 100 => row.stamp = row.stamp.max(run.stamp),
                _ => own.rows.push(Row { base, position, stamp: run.stamp }),
            }
            own.end = end;
            own.bytes += bytes.len() as u64;
            file.extend_from_slice(&bytes);
        }
        (file, stretches)
    }

    /// A piece's batches, stamped, and only those in its window.
    fn bytes_of(&self, piece: &Piece) -> Vec<u8> {
        let mut bytes = match piece.source {
            Source::Entry { index, at, bytes } => {
                let mut bytes = self.log[index as usize - 1][at as usize..][..bytes as usize].to_vec();
                if !piece.is_stamped {
                    batch::stamp(&mut bytes, piece.base, piece.epoch, piece.append_time);
                }
                bytes
            }
            Source::Extent { file, at, bytes } => self.files[&file].0[at as usize..][..bytes as usize].to_vec(),
        };
        assert!(batch::are_sound(&bytes));
        batch::keep(&mut bytes, 0, piece.from, piece.until);
        bytes
    }

    fn produce(&mut self, values: &[&[u8]], producer: (i64, i16, i32)) -> Outcome {
        let batches = example(values, self.now as i64, producer, false);
        self.store(0, &batches, None)
    }

    fn store(&mut self, partition: u32, batches: &[u8], transaction: Option<Entered>) -> Outcome {
        let (place, append_time) = ("orders", false);
        self.run(&Command::Produce {
            topic: TOPIC,
            place,
            partition,
            append_time,
            transaction,
            marks: Vec::new(),
            batches,
        })
    }

    fn partition(&self) -> &Partition {
        self.queue.partition(TOPIC, 0).expect("something was written")
    }

    /// What a reader gets from this offset on: the offset of each batch and its bytes, stamped. The same from both replicas,
    /// wherever each has it.
    fn read(&self, partition: u32, offset: u64, isolation: Isolation) -> Result<Vec<(i64, Vec<u8>)>, Code> {
        let [own, twins] = [&self.queue, &self.twin].map(|queue| {
            let plan =
                queue.partition(TOPIC, partition).expect("something was written").plan(offset, u64::MAX, isolation)?;
            let pieces = plan.pieces.iter().map(|piece| self.bytes_of(piece));
            Ok((pieces.collect::<Vec<_>>().concat(), plan.aborted))
        });
        assert_eq!(own, twins, "replicas give the same");
        let (bytes, _) = own?;
        let (mut seen, mut rest) = (Vec::new(), &bytes[..]);
        while !rest.is_empty() {
            let head = batch::Header::read(rest).expect("what was stored is sound");
            seen.push((head.base, rest[..head.bytes].to_vec()));
            rest = &rest[head.bytes..];
        }
        Ok(seen)
    }
}

fn base(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Produced { base, again: false, .. } => *base,
        other => panic!("not stored: {other:?}"),
    }
}

fn again(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Produced { base, again: true, .. } => *base,
        other => panic!("not known: {other:?}"),
    }
}

/// Damaged commands, outcomes and snapshots are errors or other values, never panics, and take no more memory than their bytes.
#[test]
fn damaged_forms_are_errors_never_panics() {
    let mut world = transactions::busy();
    let mut books = Vec::new();
    world.queue.encode_books(&mut books);
    world.queue.begin_walk();
    let mut records = Vec::new();
    assert!(world.queue.walk(usize::MAX, &mut records));
    let mut forms: Vec<Vec<u8>> = world.log.iter().filter(|entry| !entry.is_empty()).cloned().collect();
    for (at, form) in forms.iter_mut().enumerate() {
        form.drain(..17 + (at + 1) % 50);
    }
    assert!(forms.iter().any(|form| Command::decode(form).is_ok()));
    let mut rng = base::Rng::new(8);
    for round in 0..60_000 {
        let form = match round % 3 {
            0 => &records,
            1 => &books,
            _ => &forms[rng.index(forms.len())],
        };
        let mut bytes = form.clone();
        for _ in 0..=rng.below(3) {
            let at = rng.index(bytes.len());
            bytes[at] = rng.next_u64() as u8;
        }
        if rng.chance(1, 4) {
            bytes.truncate(rng.index(bytes.len()) + 1);
        }
        let mut queue = Queue::new(GroupId(1));
        if queue.read_books(&mut Input::new(&bytes)).is_err() {
            queue.clear();
        }
        if queue.restore(&bytes).is_ok() {
            queue.finish_restore();
            let _ = queue.figures();
        }
        let place = Place { index: 9, at: 17 };
        if let Ok(command) = Command::decode(&bytes) {
            world.twin.apply(&command, bytes.len(), place, 5);
        }
        let _ = Outcome::decode(&bytes);
    }
}
