//! Times of operations of several runs → shares of a row's time.

use serde::Serialize;
use std::cell::Cell;
use tinylora_compute::Cpu;
use tinylora_compute::account::Operation;

/// How much of a row's time an operation took.
#[derive(Debug, Clone, Serialize)]
pub struct OperationShare {
    /// The operation; "rest" is what is none: the scheduler, embeddings, the loss.
    pub operation: &'static str,
    /// Of the time of all runs of the row.
    pub fraction: f64,
}

/// Seconds of each operation, and of all.
type Seconds = [f64; Operation::ALL.len() + 1];

/// What was spent on a row so far.
pub(super) struct Spent<'a> {
    cpu: &'a Cpu,
    seconds: Cell<Seconds>,
}

impl<'a> Spent<'a> {
    pub(super) fn new(cpu: &'a Cpu) -> Self {
        Self { cpu, seconds: Cell::new(Seconds::default()) }
    }

    /// Adds what was done since the last call and took so many seconds.
    pub(super) fn more(&self, seconds: f64) -> f64 {
        self.add(1.0, seconds);
        seconds
    }

    /// Takes that off: it will be part of what is added next, and isn't wanted.
    pub(super) fn less(&self, seconds: f64) -> f64 {
        self.add(-1.0, seconds);
        seconds
    }

    fn add(&self, sign: f64, seconds: f64) {
        let Some(account) = self.cpu.account() else { return };
        let mut sums = self.seconds.get();
        for (sum, spent) in sums.iter_mut().zip(account.take()) {
            *sum += sign * spent.as_secs_f64();
        }
        sums[Operation::ALL.len()] += sign * seconds;
        self.seconds.set(sums);
    }

    /// The shares of what was spent since this was asked last, the largest first; none if no account is kept.
    pub(super) fn take(&self) -> Vec<OperationShare> {
        let seconds = self.seconds.take();
        let all = seconds[Operation::ALL.len()];
        if all <= 0.0 {
            return Vec::new();
        }
        let share = |operation, seconds: f64| OperationShare { operation, fraction: seconds / all };
        let mut shares: Vec<OperationShare> = Operation::ALL
            .iter()
            .zip(seconds)
            .map(|(operation, seconds)| share(operation.name(), seconds))
            .collect();
        shares.sort_by(|a, b| b.fraction.total_cmp(&a.fraction));
        let named: f64 = seconds[..Operation::ALL.len()].iter().sum();
        shares.push(share("rest", all - named));
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinylora_compute::Kernel;

    #[test]
    fn shares_are_of_all_that_was_added() {
        let cpu = Cpu::new(Kernel::Scalar, 1).with_account();
        let spent = Spent::new(&cpu);
        let mut sums = Vec::new();
        tinylora_compute::rows::sum(&cpu, &[1.0; 100], &[2.0; 100], &mut sums);
        spent.more(2.0);
        spent.less(1.0);
        let shares = spent.take();
        assert_eq!(shares.len(), Operation::ALL.len() + 1);
        assert_eq!(shares[0].operation, "residual");
        assert!(shares[0].fraction > 0.0 && shares[1].fraction == 0.0);
        assert!((shares.iter().map(|share| share.fraction).sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(spent.take().is_empty(), "taken");
    }

    #[test]
    fn without_an_account_there_are_none() {
        let cpu = Cpu::new(Kernel::Scalar, 1);
        let spent = Spent::new(&cpu);
        assert_eq!(spent.more(2.0), 2.0);
        assert!(spent.take().is_empty());
    }
}
