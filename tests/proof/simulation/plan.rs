//! What one seed decides before anything happens.

use chaley::ring::Timing;

use crate::simulation::rng::Rng;

/// When a machine's disk really has what its store wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Before the store's answer: a power cut loses nothing.
    Always,
    /// Every so many milliseconds: a power cut loses a suffix of the batches since.
    Interval(u64),
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub timing: Timing,
    pub fsync: Fsync,
    pub founders: u16,
    pub clients: usize,
    /// How many requests the clients' users have in mind altogether.
    pub requests: u64,
    /// Faults stop at this time.
    pub faults_until: u64,
    pub between_faults_ms: u64,
    /// A publication takes at most so long, but for the odd one that takes ten times as long.
    pub latency_ms: u64,
    /// A record of the register is read that much later now and then: its reader goes on in a view that is over.
    pub register_lag_ms: u64,
    /// A frame in so many is delivered again later.
    pub stray_one_in: u64,
    /// A frame in so many is lost or late.
    pub loss_one_in: u64,
    /// Pauses of processes, of clients and of the broker are at most so long.
    pub longest_pause_ms: u64,
    /// Messages that wait in a client's queue; beyond it the oldest are dropped.
    pub client_queue: usize,
    /// Publications that wait for a head that does not read; beyond it they are refused.
    pub request_queue: usize,
    pub client_beat_ms: u64,
    pub away_grace_ms: u64,
    /// What one session may say a second; 0 is no limit.
    pub flood_messages_per_s: u32,
    /// Frames between nodes are written to bytes and read again.
    pub frames_as_bytes: bool,
}

impl Plan {
    pub fn of(rng: &mut Rng) -> Plan {
        let heartbeat_ms = rng.between(15, 50);
        let suspect_after_ms = heartbeat_ms * rng.between(8, 20);
        let timing = Timing {
            heartbeat_ms,
            suspect_after_ms,
            grace_ms: suspect_after_ms.max(1_200) + rng.between(0, 400),
            failover: true,
            found_after_ms: rng.between(0, 100),
        };
        let few_requests = !rng.one_in(8);
        let near = !rng.one_in(6);
        let (longest_pause_ms, faults_until) = lengths(rng);
        let mut plan = Plan {
            timing,
            fsync: rng
                .pick(&[Fsync::Always, Fsync::Interval(50), Fsync::Interval(1_000)])
                .unwrap_or(Fsync::Always),
            founders: rng.between(3, 5) as u16,
            clients: rng.between(2, 5) as usize,
            requests: if few_requests {
                rng.between(20, 150)
            } else {
                rng.between(300, 900)
            },
            faults_until,
            between_faults_ms: rng.between(40, 1_200),
            latency_ms: if near { rng.between(1, 8) } else { rng.between(10, 50) },
            register_lag_ms: rng.pick(&[0, 0, 50, 400]).unwrap_or(0),
            stray_one_in: rng.pick(&[20, 100, 500, 1 << 40]).unwrap_or(100),
            loss_one_in: rng.pick(&[100, 1000, 1 << 40, 1 << 40]).unwrap_or(1000),
            longest_pause_ms,
            client_queue: rng.pick(&[2, 20, 10_000]).unwrap_or(20),
            request_queue: rng.pick(&[2, 10_000]).unwrap_or(2),
            client_beat_ms: rng.between(100, 1_000),
            flood_messages_per_s: 0,
            away_grace_ms: rng.pick(&[200, 1_000, 8_000]).unwrap_or(2_000),
            frames_as_bytes: rng.one_in(10),
        };
        if plan.client_beat_ms.is_multiple_of(4) {
            plan.flood_messages_per_s = 5;
        }
        plan
    }
}

/// The longest pause, and how long faults go on: most lives are short, so that there may be many of them; in one of two
/// hundred a pause may last for twenty minutes.
fn lengths(rng: &mut Rng) -> (u64, u64) {
    match rng.between(0, 199) {
        0 => (1_200_000, rng.between(10_000, 60_000)),
        1..=39 => (30_000, rng.between(7_000, 30_000)),
        _ => (3_000, rng.between(2_500, 7_000)),
    }
}
