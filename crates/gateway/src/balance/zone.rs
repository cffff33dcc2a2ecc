//! Zone-aware routing with spill-over, by Envoy's rule (docs "Zone aware routing"): a request stays in the gateway's own zone as long as every
//! endpoint of the upstream still gets about the same; what the zone's endpoints cannot take goes to the zones that have room.
//!
//! With `c_z` the share of the upstream's usable capacity (sum of weights) in zone `z` and `t_z` the share of all traffic that enters at `z`:
//! * `c_local ≥ t_local`: everything stays.
//! * else `c_local / t_local` stays, and the rest goes to the other zones by their *residual capacity*, `max(0, c_z − t_z)`.
//!
//! **Example.** Traffic enters equally at a, b, c; the upstream has 1, 2, 3 endpoints there. In a, `(1/6) / (1/3)` = half stays, half goes to c
//! (b has no room: 2/6 = 1/3). So each endpoint gets a sixth of the whole.
//!
//! No minimum of endpoints is asked for (Envoy has six): shares keep small sets right as well.

/// What a gateway knows about zones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneRule {
    /// The zone of this gateway.
    pub local: Box<str>,
    /// How much traffic enters at each zone, in any unit (the number of gateways there, for one). Empty: the same at every zone that has
    /// endpoints, whether usable or not, and here.
    pub traffic: Vec<(Box<str>, u32)>,
}

/// The share of this gateway's requests that goes to each zone, given each zone's usable capacity and traffic; `local` is an index into both.
/// All zero where there is no capacity at all.
pub(super) fn shares(local: usize, capacity: &[u64], traffic: &[u64]) -> Vec<f64> {
    assert!(capacity.len() == traffic.len() && local < capacity.len(), "both tell of the same zones");
    let part = |of: &[u64], at: usize| {
        let total: u64 = of.iter().sum();
        if total == 0 { 0.0 } else { of[at] as f64 / total as f64 }
    };
    let mut shares = vec![0.0; capacity.len()];
    if capacity.iter().all(|capacity| *capacity == 0) {
        return shares;
    }
    let (have, need) = (part(capacity, local), part(traffic, local));
    if have >= need && have > 0.0 {
        shares[local] = 1.0;
        return shares;
    }
    shares[local] = if need > 0.0 { have / need } else { 0.0 };
    let others = |at: usize| at != local;
    let residual = |at: usize| (part(capacity, at) - part(traffic, at)).max(0.0);
    let room: f64 = (0..capacity.len()).filter(|at| others(*at)).map(residual).sum();
    let spilled = 1.0 - shares[local];
    for at in (0..capacity.len()).filter(|at| others(*at)) {
        // Shares sum to one, so where the local zone lacks some, others have it; without room (rounding) the rest goes by capacity.
        let capacity_elsewhere = 1.0 - have;
        shares[at] = spilled
            * if room > 1e-12 {
                residual(at) / room
            } else if capacity_elsewhere > 0.0 {
                part(capacity, at) / capacity_elsewhere
            } else {
                0.0
            };
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(a: &[f64], b: &[f64]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9)
    }

    #[test]
    fn the_local_zone_keeps_what_it_can_serve() {
        assert!(close(&shares(0, &[2, 2, 2], &[1, 1, 1]), &[1.0, 0.0, 0.0]));
        assert!(close(&shares(2, &[1, 2, 3], &[1, 1, 1]), &[0.0, 0.0, 1.0]));
        assert!(close(&shares(0, &[1, 2, 3], &[1, 1, 1]), &[0.5, 0.0, 0.5]));
        assert!(close(&shares(0, &[0, 2, 2], &[1, 1, 1]), &[0.0, 0.5, 0.5]), "all spills over");
        assert!(close(&shares(0, &[0, 0, 5], &[1, 1, 1]), &[0.0, 0.0, 1.0]));
        assert!(close(&shares(0, &[0, 0], &[1, 1]), &[0.0, 0.0]), "nothing to give");
        assert!(close(&shares(0, &[3, 0], &[0, 0]), &[1.0, 0.0]));
    }

    proptest! {
        #[test]
        fn every_unit_of_capacity_gets_the_same_of_the_whole(
            zones in proptest::collection::vec((0u64..20, 1u64..20), 1..8)
        ) {
            let (capacity, traffic): (Vec<u64>, Vec<u64>) = zones.iter().copied().unzip();
            let total = capacity.iter().sum::<u64>() as f64;
            prop_assume!(total > 0.0);
            let whole = traffic.iter().sum::<u64>() as f64;
            let mut load = vec![0.0; zones.len()];
            for local in 0..zones.len() {
                let shares = shares(local, &capacity, &traffic);
                prop_assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "nothing gets lost");
                for (load, share) in load.iter_mut().zip(shares) {
                    *load += share * traffic[local] as f64 / whole;
                }
            }
            for (load, capacity) in load.iter().zip(&capacity) {
                prop_assert!((load - *capacity as f64 / total).abs() < 1e-9, "{load} of the load for {capacity} of {total}");
            }
        }
    }
}
