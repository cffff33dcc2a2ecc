//! What is asked of every queue alike: publish with a window of unanswered messages, consume what lies there, or both at a given pace.

use crate::bench::measure;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How a client works; for each peer what served it best when tried.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Connections that publish, each a thread.
    pub publishers: usize,
    /// Messages of one write.
    pub chunk: usize,
    /// Most messages without an answer on one connection.
    pub window: usize,
    /// Connections that consume, each a thread.
    pub subscribers: usize,
}

/// A topic, and what its messages are.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Partitions, queues or streams.
    pub partitions: usize,
    /// Bytes of a message.
    pub bytes: usize,
}

/// Speaks a protocol to a running system.
pub trait Speech: Sync {
    /// How messages are published many at a time.
    fn batched(&self, topic: &Topic) -> Shape;
    /// Makes the topic.
    fn create(&self, topic: &Topic) -> Result<(), String>;
    /// Removes it with all messages.
    fn remove(&self, topic: &Topic) -> Result<(), String>;
    /// A connection that publishes to these partitions.
    fn publisher(&self, topic: &Topic, partitions: Vec<usize>) -> Result<Box<dyn Publisher>, String>;
    /// A connection that consumes these partitions from their beginning.
    fn subscriber(&self, topic: &Topic, partitions: Vec<usize>) -> Result<Box<dyn Subscriber>, String>;
}

/// A connection that publishes.
pub trait Publisher: Send {
    /// The body of the messages that follow.
    fn body(&mut self) -> &mut [u8];
    /// Sends so many messages in one write, and waits for nothing.
    fn send(&mut self, count: usize) -> Result<(), String>;
    /// Waits for answers, and tells how many messages they are for.
    fn answered(&mut self) -> Result<usize, String>;
    /// Whom it dealt how many.
    fn deal(&self) -> &Deal;
}

/// A connection that consumes.
pub trait Subscriber: Send {
    /// Waits for messages and shows each one's body.
    fn next(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<(), String>;
}

/// Gives messages to partitions in turn.
#[derive(Clone, Debug)]
pub struct Deal {
    partitions: Vec<usize>,
    counts: Vec<u64>,
    turn: usize,
}

impl Deal {
    /// To these.
    pub fn new(partitions: Vec<usize>) -> Deal {
        Deal { counts: vec![0; partitions.len()], partitions, turn: 0 }
    }

    /// The place, in the given order, of the partition that gets the next `count`.
    pub fn next(&mut self, count: usize) -> usize {
        let at = self.turn;
        self.counts[at] += count as u64;
        self.turn = (at + 1) % self.partitions.len();
        at
    }

    /// The partitions, in the given order.
    pub fn partitions(&self) -> &[usize] {
        &self.partitions
    }
}

/// The partitions of client `at` of so many; there may be more clients than partitions.
fn share(partitions: usize, clients: usize, at: usize) -> Vec<usize> {
    match partitions {
        few if few <= clients => vec![at % few],
        many => (0..many).filter(|partition| partition % clients == at).collect(),
    }
}

/// A message's body that nothing compresses.
pub fn body(bytes: usize) -> Vec<u8> {
    super::super::load::value(&mut crate::rng::Rng::new(0x71_75_65), bytes)
}

/// What publishing showed.
#[derive(Default)]
pub struct Published {
    /// Messages answered.
    pub count: usize,
    /// From the first to the last answer.
    pub span: Duration,
    /// From a write to its answer, and for how many messages.
    took: Vec<(Duration, usize)>,
    /// Messages of each partition.
    pub counts: Vec<u64>,
}

impl Published {
    /// Median and 99th of a hundred, in milliseconds.
    pub fn latencies(&mut self) -> [f64; 2] {
        self.took.sort_unstable();
        let all: usize = self.took.iter().map(|(_, count)| count).sum();
        [0.5, 0.99].map(|part| {
            let mut left = (all as f64 * part) as usize;
            let found = self.took.iter().find(|(_, count)| {
                let here = left < *count;
                left = left.saturating_sub(*count);
                here
            });
            found.map_or(0.0, |(took, _)| took.as_secs_f64() * 1000.0)
        })
    }
}

/// Publishes for so long.
pub fn publish(speech: &dyn Speech, topic: &Topic, shape: Shape, span: Duration) -> Result<Published, String> {
    let mut clients = Vec::new();
    for at in 0..shape.publishers {
        clients.push(speech.publisher(topic, share(topic.partitions, shape.publishers, at))?);
    }
    let start = Instant::now();
    let told = std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                scope.spawn(move || {
                    let took = run(client.as_mut(), shape, start + span)?;
                    Ok::<_, String>((took, client.deal().clone()))
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().map_err(|_| "a publisher panicked".to_owned())?);
        joined.collect::<Result<Vec<_>, String>>()
    })?;
    let mut published = Published { span: start.elapsed(), counts: vec![0; topic.partitions], ..Published::default() };
    for (took, deal) in told {
        published.count += took.iter().map(|(_, count)| count).sum::<usize>();
        published.took.extend(took);
        deal.partitions.iter().zip(&deal.counts).for_each(|(at, count)| published.counts[*at] += count);
    }
    Ok(published)
}

/// Keeps the window full until `until`, then waits for what is under way. Answers are taken to be for the oldest messages.
fn run(client: &mut dyn Publisher, shape: Shape, until: Instant) -> Result<Vec<(Duration, usize)>, String> {
    let (mut under_way, mut in_flight, mut took) = (VecDeque::<(Instant, usize)>::new(), 0, Vec::new());
    loop {
        let mut now = Instant::now();
        while now < until && in_flight + shape.chunk <= shape.window {
            client.send(shape.chunk)?;
            under_way.push_back((now, shape.chunk));
            in_flight += shape.chunk;
            now = Instant::now();
        }
        if in_flight == 0 {
            return Ok(took);
        }
        let mut answered = client.answered()?;
        in_flight -= answered;
        let now = Instant::now();
        while let Some((sent, count)) = under_way.front_mut().filter(|_| answered > 0) {
            let part = answered.min(*count);
            took.push((now - *sent, part));
            (answered, *count) = (answered - part, *count - part);
            if *count == 0 {
                under_way.pop_front();
            }
        }
    }
}

/// What consuming showed.
pub struct Consumed {
    /// Messages seen.
    pub count: usize,
    /// How long that took, the connections being there already.
    pub span: Duration,
}

/// Consumes what was published.
pub fn consume(speech: &dyn Speech, topic: &Topic, clients: usize, counts: &[u64]) -> Result<Consumed, String> {
    let clients = clients.min(topic.partitions);
    let mut subscribers = Vec::new();
    for at in 0..clients {
        let partitions = share(topic.partitions, clients, at);
        let wanted: u64 = partitions.iter().map(|partition| counts[*partition]).sum();
        subscribers.push((speech.subscriber(topic, partitions)?, wanted as usize));
    }
    let start = Instant::now();
    let seen = std::thread::scope(|scope| {
        let threads: Vec<_> = subscribers
            .into_iter()
            .map(|(mut client, wanted)| {
                scope.spawn(move || {
                    let mut seen = 0;
                    while seen < wanted {
                        client.next(&mut |body| {
                            // Looked at, as an application would, and of the length that was sent.
                            seen += usize::from(std::hint::black_box(body).len() == topic.bytes);
                        })?;
                    }
                    Ok::<_, String>(seen)
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().map_err(|_| "a subscriber panicked".to_owned())?);
        joined.sum::<Result<usize, String>>()
    })?;
    Ok(Consumed { count: seen, span: start.elapsed() })
}

/// Publishes at a pace, one message at a time, while another connection consumes: from the moment when a message was due until
/// the consumer has it. Median and 99th of a hundred, in milliseconds.
pub fn live(speech: &dyn Speech, topic: &Topic, per_second: f64, span: Duration) -> Result<[f64; 2], String> {
    // A server's first message of a topic may wait for what the others do not.
    const FIRST: usize = 20;
    const UNDER_WAY: usize = 100;
    let count = FIRST + (per_second * span.as_secs_f64()) as usize;
    let mut publisher = speech.publisher(topic, vec![0])?;
    let mut subscriber = speech.subscriber(topic, vec![0])?;
    let mut under_way = 0;
    let start = Instant::now() + Duration::from_millis(20);
    let mut took = std::thread::scope(|scope| {
        let consumer = scope.spawn(move || {
            let mut took = Vec::with_capacity(count);
            while took.len() < count {
                subscriber.next(&mut |body| {
                    let due = body.first_chunk().map_or(0, |stamp| u64::from_be_bytes(*stamp));
                    took.push(start.elapsed().saturating_sub(Duration::from_nanos(due)));
                })?;
            }
            Ok::<_, String>(took)
        });
        for at in 0..count {
            let due = Duration::from_secs_f64(at as f64 / per_second);
            std::thread::sleep((start + due).saturating_duration_since(Instant::now()));
            publisher.body()[..8].copy_from_slice(&(due.as_nanos() as u64).to_be_bytes());
            publisher.send(1)?;
            under_way += 1;
            // Nobody waits for an answer before the next one is due, unless far too many are missing.
            while under_way > UNDER_WAY {
                under_way -= publisher.answered()?;
            }
        }
        consumer.join().map_err(|_| "a subscriber panicked".to_owned())?
    })?;
    let [p50, p99, _] = measure::latencies(&mut took[FIRST..]);
    Ok([p50, p99])
}

#[cfg(test)]
mod tests {
    use super::{Deal, Published, share};
    use std::time::Duration;

    #[test]
    fn every_partition_has_somebody() {
        assert_eq!(share(1, 4, 3), [0]);
        assert_eq!(share(16, 16, 5), [5]);
        assert_eq!(share(16, 4, 1), [1, 5, 9, 13]);
        assert_eq!(share(1, 1, 0), [0]);
    }

    #[test]
    fn messages_are_dealt_in_turn() {
        let mut deal = Deal::new(vec![3, 7]);
        assert_eq!([deal.next(5), deal.next(1), deal.next(2)], [0, 1, 0]);
        assert_eq!((deal.partitions(), &deal.counts[..]), (&[3, 7][..], &[7, 1][..]));
    }

    #[test]
    fn latencies_count_messages_not_answers() {
        let took = [(30, 1), (10, 98), (20, 1)].map(|(ms, count)| (Duration::from_millis(ms), count)).to_vec();
        let mut published = Published { took, ..Published::default() };
        assert_eq!(published.latencies(), [10.0, 30.0]);
        assert_eq!(Published::default().latencies(), [0.0; 2]);
    }
}
