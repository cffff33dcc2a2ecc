//! The load in etcd's protocol.

use super::Load;
use crate::bench::grpc::{self, Calls, Shown};

/// Plays `load` on the members at `addrs`, connection by connection in turn.
pub fn play(addrs: &[String], load: &Load) -> Result<Shown, String> {
    let path = if load.write { "/etcdserverpb.KV/Put" } else { "/etcdserverpb.KV/Range" };
    let calls = Calls { path, clients: load.clients, span: load.span, is_stream: false };
    grpc::play(addrs, &calls, |at| {
        let mut requests = Load { seed: load.seed ^ at << 40, ..load.clone() }.requests();
        let is_write = load.write;
        move |out| {
            let (key, value) = requests.next();
            grpc::field(out, 1, key);
            if is_write {
                grpc::field(out, 2, value);
            }
        }
    })
}
