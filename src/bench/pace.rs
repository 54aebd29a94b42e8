//! When the next message is due: the load, without clock or network.

/// Microseconds since the bench began, on one monotonic clock for all clients.
pub type Micros = u64;

/// How a client talks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// It only listens.
    Silent,
    /// A lone message: the next one so long after the last was acknowledged.
    Alone { pause_us: Micros },
    /// As many as may be unacknowledged at a time: a closed loop, which finds the peak.
    Full { window: usize },
    /// One every `every_us`, the first after `offset_us`, whether or not those before are acknowledged: an open loop. A
    /// message is dated to when it was *due*, so that a stall counts for all that it held up, not just for the one that
    /// saw it (Tene's "coordinated omission"). Beyond `window` unacknowledged ones the rest waits, dated all the same.
    Steady {
        every_us: f64,
        offset_us: f64,
        window: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Say one now, dated `dated_us`.
    Say { dated_us: Micros },
    /// Nothing before then.
    At(Micros),
    /// Nothing before an acknowledgement comes.
    Acknowledged,
}

/// One client's pace at work.
#[derive(Debug)]
pub struct Pacer {
    pace: Pace,
    started_us: Micros,
    said: u64,
    acknowledged: u64,
    acknowledged_us: Micros,
}

impl Pacer {
    pub fn new(pace: Pace, started_us: Micros) -> Pacer {
        Pacer {
            pace,
            started_us,
            said: 0,
            acknowledged: 0,
            acknowledged_us: started_us,
        }
    }

    /// How many were said.
    pub fn said_count(&self) -> u64 {
        self.said
    }

    /// How many of them are not acknowledged.
    pub fn outstanding(&self) -> usize {
        usize::try_from(self.said - self.acknowledged).unwrap_or(usize::MAX)
    }

    pub fn next(&self, now_us: Micros) -> Next {
        match self.pace {
            Pace::Silent => Next::Acknowledged,
            Pace::Alone { .. } if self.outstanding() > 0 => Next::Acknowledged,
            Pace::Alone { pause_us } => due(self.acknowledged_us + pause_us, now_us, now_us),
            Pace::Full { window } | Pace::Steady { window, .. } if self.outstanding() >= window => Next::Acknowledged,
            Pace::Full { .. } => Next::Say { dated_us: now_us },
            Pace::Steady {
                every_us, offset_us, ..
            } => {
                let after_us = (offset_us + every_us * self.said as f64) as Micros;
                let at = self.started_us.saturating_add(after_us);
                due(at, now_us, at)
            }
        }
    }

    pub fn said(&mut self) {
        self.said += 1;
    }

    /// `count` more are acknowledged.
    pub fn acknowledged(&mut self, count: u64, now_us: Micros) {
        self.acknowledged = (self.acknowledged + count).min(self.said);
        self.acknowledged_us = now_us;
    }
}

fn due(at_us: Micros, now_us: Micros, dated_us: Micros) -> Next {
    if now_us < at_us {
        Next::At(at_us)
    } else {
        Next::Say { dated_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_message_follows_the_acknowledgement_after_a_pause() {
        let mut pacer = Pacer::new(Pace::Alone { pause_us: 5 }, 100);
        assert_eq!(pacer.next(104), Next::At(105));
        assert_eq!(pacer.next(107), Next::Say { dated_us: 107 });
        pacer.said();
        assert_eq!(pacer.next(500), Next::Acknowledged);
        pacer.acknowledged(1, 500);
        assert_eq!(pacer.next(500), Next::At(505));
    }

    #[test]
    fn a_full_window_waits_for_acknowledgements() {
        let mut pacer = Pacer::new(Pace::Full { window: 2 }, 0);
        for _ in 0..2 {
            assert_eq!(pacer.next(9), Next::Say { dated_us: 9 });
            pacer.said();
        }
        assert_eq!(pacer.next(10), Next::Acknowledged);
        pacer.acknowledged(1, 11);
        assert_eq!(pacer.next(11), Next::Say { dated_us: 11 });
    }

    #[test]
    fn a_steady_pace_dates_what_a_stall_held_up_to_when_it_was_due() {
        let steady = Pace::Steady {
            every_us: 1000.0,
            offset_us: 500.0,
            window: 2,
        };
        let mut pacer = Pacer::new(steady, 0);
        assert_eq!(pacer.next(0), Next::At(500));
        for due in [500, 1500] {
            assert_eq!(pacer.next(50_000), Next::Say { dated_us: due });
            pacer.said();
        }
        assert_eq!(pacer.next(50_000), Next::Acknowledged);
        pacer.acknowledged(2, 60_000);
        assert_eq!(pacer.next(60_000), Next::Say { dated_us: 2500 });
    }
}
