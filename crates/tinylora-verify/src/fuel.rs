//! The limit on work: steps are spent, and where they run out the work ends with an error. Counted in operations,
//! never in time, so that a verdict is the same on every machine.

/// What is left of the steps that one verdict may take.
#[derive(Debug, Clone)]
pub struct Fuel {
    left: u64,
}

/// The steps ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer takes more steps than are allowed")]
pub struct OutOfFuel;

impl Fuel {
    /// So many steps.
    pub fn new(steps: u64) -> Self {
        Self { left: steps }
    }

    /// Spends steps; an error where there are not enough.
    pub fn spend(&mut self, steps: u64) -> Result<(), OutOfFuel> {
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(OutOfFuel)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_gone() {
        let mut fuel = Fuel::new(3);
        assert_eq!(fuel.spend(2), Ok(()));
        assert_eq!(fuel.spend(2), Err(OutOfFuel));
        assert_eq!(fuel.spend(1), Err(OutOfFuel));
    }
}
