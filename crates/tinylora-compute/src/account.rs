//! Where the time of a pass goes: seconds of each operation, as the thread that calls it waits for it, so that idle
//! threads count as well as busy ones. Kept only by a [`crate::Cpu`] that was made for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What time is spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Products with matrices of the layers, the side path's last step included.
    Products,
    /// The rest of the side path: x → A x → R A x, and its gradients.
    SidePath,
    /// Scores, softmax and mixture.
    Attention,
    /// New keys and values to the cache.
    KvCache,
    /// Logits, their statistics, sampling, and gradients through them.
    Head,
    /// RMS norms.
    Norms,
    /// Rotary embeddings.
    Rope,
    /// Gated activations.
    Activations,
    /// Sums with the residual stream.
    Residual,
}

impl Operation {
    /// All, in the order in which they are told.
    pub const ALL: [Self; 9] = [
        Self::Products,
        Self::SidePath,
        Self::Attention,
        Self::KvCache,
        Self::Head,
        Self::Norms,
        Self::Rope,
        Self::Activations,
        Self::Residual,
    ];

    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Products => "products",
            Self::SidePath => "side path",
            Self::Attention => "attention",
            Self::KvCache => "kv cache",
            Self::Head => "head",
            Self::Norms => "norms",
            Self::Rope => "rope",
            Self::Activations => "activations",
            Self::Residual => "residual",
        }
    }
}

/// Time spent on each operation, in the order of [`Operation::ALL`].
pub type Times = [Duration; Operation::ALL.len()];

/// Sums of one thread's calls; calls from several threads at once would be told short.
#[derive(Debug, Default)]
pub struct Account {
    nanoseconds: [AtomicU64; Operation::ALL.len()],
    /// Whether an operation is being timed: operations that it is made of count as part of it.
    busy: AtomicBool,
}

impl Account {
    /// Begins to time an operation, until what is returned is dropped; nothing inside of another.
    pub(crate) fn begin(&self, operation: Operation) -> Option<Clock<'_>> {
        (!self.busy.swap(true, Ordering::Relaxed)).then(|| Clock {
            account: self,
            operation,
            began: Instant::now(),
        })
    }

    /// What was spent since this was asked last.
    pub fn take(&self) -> Times {
        std::array::from_fn(|index| Duration::from_nanos(self.nanoseconds[index].swap(0, Ordering::Relaxed)))
    }
}

/// Times an operation for as long as it lives.
#[derive(Debug)]
pub struct Clock<'a> {
    account: &'a Account,
    operation: Operation,
    began: Instant,
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        let spent = self.began.elapsed().as_nanos() as u64;
        self.account.nanoseconds[self.operation as usize].fetch_add(spent, Ordering::Relaxed);
        self.account.busy.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_inside_of_others_count_once() {
        let account = Account::default();
        {
            let _outer = account.begin(Operation::Head);
            assert!(account.begin(Operation::Products).is_none());
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(account.begin(Operation::Rope));
        let times = account.take();
        let spent = |operation: Operation| times[operation as usize];
        assert!(spent(Operation::Head) >= Duration::from_millis(2));
        assert_eq!(spent(Operation::Products), Duration::ZERO);
        assert!(spent(Operation::Rope) < spent(Operation::Head));
        assert_eq!(account.take(), Times::default(), "taken");
    }

    #[test]
    fn the_order_is_that_of_the_numbers() {
        assert!(Operation::ALL.iter().enumerate().all(|(index, &operation)| operation as usize == index));
    }
}
