//! How full the batch was: steps of the scheduler enter, the share of empty slots leaves.

use serde::{Deserialize, Serialize};

/// Slots of the decode batch, summed over steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Occupancy {
    /// Of each call, its steps times the most sequences that ran at once.
    pub slots: u64,
    /// Those without a sequence, after the last waiting one had begun: the tail.
    pub empty: u64,
}

impl Occupancy {
    /// Share of slots that were empty in the tail; 0 where nothing ran.
    pub fn empty_fraction(&self) -> f64 {
        if self.slots == 0 { 0.0 } else { self.empty as f64 / self.slots as f64 }
    }
}

impl std::ops::AddAssign for Occupancy {
    fn add_assign(&mut self, other: Self) {
        self.slots += other.slots;
        self.empty += other.empty;
    }
}

/// What a call counts on its way.
#[derive(Debug, Default)]
pub(super) struct Count {
    steps: u64,
    most: u64,
    tail_steps: u64,
    tail_running: u64,
}

impl Count {
    /// One step in which so many sequences ran; `dry`: none was waiting any more.
    pub fn step(&mut self, running: usize, dry: bool) {
        self.steps += 1;
        self.most = self.most.max(running as u64);
        if dry {
            self.tail_steps += 1;
            self.tail_running += running as u64;
        }
    }

    /// The call's slots. The batch has its full size before the queue runs dry, or never.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy { slots: self.steps * self.most, empty: self.tail_steps * self.most - self.tail_running }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tail_counts_as_empty() {
        let mut count = Count::default();
        for (running, dry) in [(2, false), (4, false), (4, true), (3, true), (1, true)] {
            count.step(running, dry);
        }
        let occupancy = count.occupancy();
        assert_eq!(occupancy, Occupancy { slots: 20, empty: 4 });
        assert_eq!(occupancy.empty_fraction(), 0.2);
        assert_eq!(Occupancy::default().empty_fraction(), 0.0);
    }
}
