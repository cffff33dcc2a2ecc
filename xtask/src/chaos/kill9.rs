//! kill -9 under load, and the power cut, which is the same with a disk that forgets.

use super::history::{Object, check_all, load};
use super::image::Image;
use super::server::Server;
use super::{Ask, at};
use crate::rng::Rng;
use std::time::{Duration, Instant};

/// Writers at once: two of each kind.
pub const WRITERS: usize = 10;
/// Rounds whose objects are all read again; of older ones a tenth is.
const RECENT: usize = 3;

/// Objects of one round.
fn objects(round: usize) -> Vec<Object> {
    (0..WRITERS).map(|writer| Object::new(round, writer)).collect()
}

/// A moment under load, early as often as late.
fn pause(rng: &mut Rng) {
    let most = if rng.percent(30) { 30 } else { 500 };
    std::thread::sleep(Duration::from_millis(1 + rng.below(most) as u64));
}

/// What must be looked at in this round: all of the last rounds, some of the older, in the last round everything.
fn due<'a>(rounds: &'a mut [Vec<Object>], rng: &mut Rng, all: bool) -> Vec<&'a mut Object> {
    let recent = rounds.len().saturating_sub(RECENT);
    let mut due = Vec::new();
    for (at, objects) in rounds.iter_mut().enumerate() {
        for object in objects {
            if all || at >= recent || rng.percent(10) {
                due.push(object);
            }
        }
    }
    due
}

fn summary(kind: &str, rounds: &[Vec<Object>], slowest: Duration) {
    let writes: u64 = rounds.iter().flatten().map(Object::acknowledged).sum();
    println!(
        "chaos {kind}: {} rounds, {writes} writes, nothing lost, nothing half there; slowest start {:.2} s",
        rounds.len(),
        slowest.as_secs_f64()
    );
}

/// kill -9 at random moments, also during the start that follows; SIGTERM now and then.
pub fn run(ask: &Ask) -> Result<(), String> {
    let (data, log) = (ask.dir.join("data"), ask.dir.join("server.log"));
    at(&data, std::fs::create_dir_all(&data))?;
    let mut rng = ask.rng();
    let mut rounds: Vec<Vec<Object>> = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 0..ask.rounds {
        if rng.percent(20) {
            let mut early = Server::start(&ask.template, &data, &log)?;
            std::thread::sleep(Duration::from_millis(rng.below(120) as u64));
            early.kill();
        }
        let start = Instant::now();
        let mut server = Server::start(&ask.template, &data, &log)?;
        let mut conn = server.must_be_ready().map_err(|why| format!("round {round}: {why}"))?;
        slowest = slowest.max(start.elapsed());
        check_all(&mut conn, due(&mut rounds, &mut rng, false)).map_err(|why| format!("round {round}: {why}"))?;
        let mut objects = objects(round);
        let mut moments = Rng::new(rng.next());
        let addr = server.addr.clone();
        // Now and then the polite way: whatever was answered before the end must be there too, and the end must be a success.
        let polite = moments.percent(20);
        let mut ended = Ok(());
        let written = load(&addr, &mut objects, &mut rng, |_| {
            pause(&mut moments);
            if polite {
                ended = server
                    .stop()
                    .and_then(|status| if status.success() { Ok(()) } else { Err(format!("after SIGTERM: {status}")) });
            } else {
                server.kill();
            }
        });
        ended.map_err(|why| format!("round {round}: {why}"))?;
        if !polite {
            // A server that is told to stop may refuse; one that is killed says nothing any more.
            written.map_err(|why| format!("round {round}: {why}"))?;
        }
        rounds.push(objects);
    }
    let mut server = Server::start(&ask.template, &data, &log)?;
    let mut conn = server.must_be_ready()?;
    check_all(&mut conn, due(&mut rounds, &mut rng, true)).map_err(|why| format!("at the end: {why}"))?;
    summary("kill9", &rounds, slowest);
    Ok(())
}

/// The file system is shut down with nothing flushed: what was written but not synced is gone, every later write fails. Then the server is
/// killed, the disk mounted again and the server started on what is left.
///
/// An answer that comes while the file system goes down proves nothing: an fdatasync under way may return success although the journal
/// was just given up. At a real cut nobody would have heard it. So answers count until the shutdown begins, and what is sent after its
/// end must not be acknowledged.
pub fn power_cut(ask: &Ask) -> Result<(), String> {
    let log = ask.dir.join("server.log");
    let mut image = Image::make(&ask.dir, 512)?;
    let mut rng = ask.rng();
    let mut rounds: Vec<Vec<Object>> = Vec::new();
    let mut slowest = Duration::ZERO;
    for round in 0..=ask.rounds {
        let data = image.path().join("data");
        at(&data, std::fs::create_dir_all(&data))?;
        if round == 0 {
            // The directory itself is the operator's: it is there before the server is.
            image.sync()?;
        }
        let start = Instant::now();
        let mut server = Server::start(&ask.template, &data, &log)?;
        let mut conn = server.must_be_ready().map_err(|why| format!("round {round}: {why}"))?;
        slowest = slowest.max(start.elapsed());
        let last = round == ask.rounds;
        check_all(&mut conn, due(&mut rounds, &mut rng, last)).map_err(|why| format!("round {round}: {why}"))?;
        if last {
            break;
        }
        let mut objects = objects(round);
        let mut moments = Rng::new(rng.next());
        let addr = server.addr.clone();
        let mut cut = Ok(());
        let written = load(&addr, &mut objects, &mut rng, |stage| {
            pause(&mut moments);
            stage.begins();
            cut = image.cut();
            stage.complete();
            // Long enough for a server that does not notice to answer wrongly.
            std::thread::sleep(Duration::from_millis(100));
            server.kill();
        });
        // Error replies are right after the cut: they acknowledge nothing.
        if let Err(why) = written
            && why.starts_with("ACKNOWLEDGED")
        {
            return Err(format!("round {round}: {why}"));
        }
        cut?;
        drop(server);
        image.reboot()?;
        rounds.push(objects);
    }
    summary("power-cut", &rounds, slowest);
    Ok(())
}
