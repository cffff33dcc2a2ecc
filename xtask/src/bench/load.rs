//! Our own load: what redis-benchmark cannot do. A thread per connection, each waiting for its reply, so latencies are what a client sees.

use super::measure::{Sample, latencies};
use crate::resp::{Conn, Value, encode};
use crate::rng::Rng;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Commands in one write while filling.
const FILL_PIPELINE: usize = 500;

fn open(addr: &str) -> Result<Conn, String> {
    Conn::open(addr, Duration::from_secs(120)).map_err(|error| format!("{addr}: {error}"))
}

fn good(reply: std::io::Result<Value>) -> Result<Value, String> {
    match reply {
        Ok(Value::Error(text)) => Err(format!("an error reply: {}", String::from_utf8_lossy(&text))),
        Ok(value) => Ok(value),
        Err(error) => Err(error.to_string()),
    }
}

/// A value of so many bytes that no compression makes smaller.
pub fn value(rng: &mut Rng, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| b'!' + (rng.next() % 90) as u8).collect()
}

/// SETs every key of the range once, deeply pipelined.
pub fn fill(addr: &str, keys: Range<u64>, name: &dyn Fn(u64) -> String, value_bytes: usize) -> Result<(), String> {
    let mut conn = open(addr)?;
    let mut rng = Rng::new(keys.start ^ 0x66_69_6c_6c);
    let value = value(&mut rng, value_bytes);
    let mut at = keys.start;
    while at < keys.end {
        let upto = keys.end.min(at + FILL_PIPELINE as u64);
        let mut out = Vec::new();
        for key in at..upto {
            encode(&mut out, &[b"SET", name(key).as_bytes(), &value]);
        }
        conn.send_raw(&out).map_err(|error| format!("{addr}: {error}"))?;
        for _ in at..upto {
            good(conn.read()).map_err(|why| format!("{addr}: SET: {why}"))?;
        }
        at = upto;
    }
    Ok(())
}

/// Keys of the mix.
pub fn mix_key(at: u64) -> String {
    format!("user:{at:012}")
}

/// Nine GETs to one SET over keys of which few are popular (Zipf, exponent 0.99).
pub struct Mix {
    /// Connections, one request in flight on each.
    pub connections: usize,
    /// Keys.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// How long.
    pub seconds: f64,
    /// The same seed gives the same requests.
    pub seed: u64,
}

impl Mix {
    /// Plays it; the CPU is not in the sample yet.
    pub fn play(&self, addr: &str) -> Result<Sample, String> {
        let zipf = Arc::new(zipf(self.keys as usize, 0.99));
        let limit = Duration::from_secs_f64(self.seconds);
        let start = Instant::now();
        let threads: Vec<_> = (0..self.connections)
            .map(|at| {
                let (addr, zipf) = (addr.to_owned(), Arc::clone(&zipf));
                let mut rng = Rng::new(self.seed ^ (at as u64) << 32);
                let value = value(&mut rng, self.value_bytes);
                thread::spawn(move || -> Result<Vec<Duration>, String> {
                    let mut conn = open(&addr)?;
                    let mut took = Vec::new();
                    let start = Instant::now();
                    while start.elapsed() < limit {
                        // The popular keys lie apart from each other.
                        let rank = draw(&zipf, &mut rng) as u64;
                        let key = mix_key(rank.wrapping_mul(0x9e37_79b1) % zipf.len() as u64);
                        let asked = Instant::now();
                        let reply = if rng.percent(10) {
                            conn.call(&[b"SET", key.as_bytes(), &value])
                        } else {
                            conn.call(&[b"GET", key.as_bytes()])
                        };
                        good(reply)?;
                        took.push(asked.elapsed());
                    }
                    Ok(took)
                })
            })
            .collect();
        let mut took = Vec::new();
        for thread in threads {
            took.extend(thread.join().map_err(|_| "a client of the mix panicked")??);
        }
        let seconds = start.elapsed().as_secs_f64();
        let [p50_ms, p99_ms, _] = latencies(&mut took);
        Ok(Sample { requests: took.len(), rate: took.len() as f64 / seconds, p50_ms, p99_ms, cpu: 0.0 })
    }
}

/// Sums of Zipf's weights, the last being 1.
fn zipf(keys: usize, exponent: f64) -> Vec<f64> {
    let mut sum = 0.0;
    let mut sums: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        })
        .collect();
    sums.iter_mut().for_each(|part| *part /= sum);
    sums
}

fn draw(sums: &[f64], rng: &mut Rng) -> usize {
    let at = (rng.next() >> 11) as f64 / (1u64 << 53) as f64;
    sums.partition_point(|part| *part <= at).min(sums.len() - 1)
}

/// Asks again and again until told to stop: GETs of keys and SETs of one, in turn. Gives the latencies of either.
pub struct Pinger {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<[Vec<Duration>; 2], String>>,
}

impl Pinger {
    /// Starts at once.
    pub fn start(addr: &str, keys: u64, name: fn(u64) -> String) -> Result<Pinger, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, mut conn) = (Arc::clone(&stop), open(addr)?);
        let thread = thread::spawn(move || {
            let mut rng = Rng::new(7);
            let mut took = [Vec::new(), Vec::new()];
            while !told.load(Ordering::Relaxed) {
                let key = name(rng.next() % keys);
                let asked = Instant::now();
                good(conn.call(&[b"GET", key.as_bytes()]))?;
                took[0].push(asked.elapsed());
                let asked = Instant::now();
                good(conn.call(&[b"SET", key.as_bytes(), b"pinged"]))?;
                took[1].push(asked.elapsed());
            }
            Ok(took)
        });
        Ok(Pinger { stop, thread })
    }

    /// Latencies of the GETs and of the SETs until now.
    pub fn stop(self) -> Result<[Vec<Duration>; 2], String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the pinger panicked".to_owned())?
    }
}

#[cfg(test)]
mod tests {
    use super::{draw, zipf};
    use crate::rng::Rng;

    #[test]
    fn few_keys_are_popular() {
        let sums = zipf(1000, 0.99);
        let mut rng = Rng::new(1);
        let drawn: Vec<usize> = (0..10_000).map(|_| draw(&sums, &mut rng)).collect();
        let popular = drawn.iter().filter(|rank| **rank < 100).count();
        assert!((6000..8500).contains(&popular), "{popular} of 10000 among the first tenth");
        assert!(drawn.iter().all(|rank| *rank < 1000));
    }
}
