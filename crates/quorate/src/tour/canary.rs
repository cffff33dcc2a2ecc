//! A new version gets 5 % of the users, then half, then 5 % again: nobody moves but who has to.

use std::collections::BTreeSet;
use std::path::Path;

use super::front::{Backend, Client, tell, upstream};
use super::{Server, grouped};

const USERS: usize = 2000;
/// How often each user comes.
const VISITS: usize = 3;
/// How far the share may be from the weight, percent of all users: three standard deviations of 2,000 draws at one half.
const OFF_MAX: f64 = 3.4;

pub fn run(directory: &Path) -> Result<(), String> {
    let server = Server::start(&directory.join("data"), &[], &[])?;
    let (old, new) = ([Backend::start("old")?], [Backend::start("new")?]);
    upstream(&server, "add", "shop", &old, &[])?;
    upstream(&server, "add", "shop-next", &new, &[])?;
    let share = |verb, old: u32, new: u32| {
        let (old, new) = (format!("shop={old}"), format!("shop-next={new}"));
        tell(&server, &["route", verb, "shop", "--to", &old, "--to", &new, "--sticky", "cookie:user"])
    };
    println!("{} users, known by a cookie; each comes {VISITS} times.", grouped(USERS as u64));
    share("add", 95, 5)?;
    let first = users_of_new(&server)?;
    near(&first, 5.0)?;

    share("set", 50, 50)?;
    let half = users_of_new(&server)?;
    near(&half, 50.0)?;
    let (came, left) = (half.difference(&first).count(), first.difference(&half).count());
    println!("      {} came to the new version, {left} left it for the old one", grouped(came as u64));
    if left > 0 {
        return Err(format!("{left} users left the new version though its share grew"));
    }

    share("set", 95, 5)?;
    let back = users_of_new(&server)?;
    let (stayed, others) = (back.intersection(&first).count(), back.difference(&first).count());
    println!("      {stayed} of the first {} are on it again, {others} others", first.len());
    if back != first {
        return Err("the users of the new version are others than the first time".into());
    }

    share("set", 100, 0)?;
    let none = users_of_new(&server)?;
    if !none.is_empty() {
        return Err(format!("{} users are on a version that has weight 0", none.len()));
    }
    Ok(())
}

/// Who is on the new version; an error if anybody is now here and now there.
fn users_of_new(server: &Server) -> Result<BTreeSet<usize>, String> {
    let broken = |error| format!("the gateway did not answer: {error}");
    let mut client = Client::connect(server.gateway).map_err(broken)?;
    let mut visits = vec![0; USERS];
    for _ in 0..VISITS {
        for (user, on_new) in visits.iter_mut().enumerate() {
            let answer = client.get(&format!("Cookie: theme=dark; user=u{user:05}\r\n")).map_err(broken)?;
            if answer.status != 200 {
                return Err(format!("a user was answered {}", answer.status));
            }
            *on_new += usize::from(answer.backend == "new");
        }
    }
    let wandering = visits.iter().filter(|count| ![0, VISITS].contains(count)).count();
    if wandering > 0 {
        return Err(format!("{wandering} users were now on one version, now on the other"));
    }
    let of_new: BTreeSet<usize> = (0..USERS).filter(|user| visits[*user] > 0).collect();
    println!(
        "      {} users on the new version ({:.1} %), each at all of its {VISITS} visits",
        grouped(of_new.len() as u64),
        100.0 * of_new.len() as f64 / USERS as f64
    );
    Ok(of_new)
}

fn near(of_new: &BTreeSet<usize>, wanted: f64) -> Result<(), String> {
    let got = 100.0 * of_new.len() as f64 / USERS as f64;
    // A share of 5 % scatters less than one of 50 %.
    let off = OFF_MAX * (wanted / 100.0 * (1.0 - wanted / 100.0)).sqrt() * 2.0;
    if (got - wanted).abs() > off {
        return Err(format!("{got:.1} % of the users are on the new version, its weight says {wanted} %"));
    }
    Ok(())
}
