//! Estimators of KL(π ‖ π_base) from one token that π sampled (Schulman 2020, "Approximating KL divergence"), and
//! their derivatives. With d = ln π_base − ln π:
//!
//! | | value | ∂/∂ ln π |
//! |---|---|---|
//! | k1 | −d | 1 |
//! | k2 | d²/2 | −d |
//! | k3 | e^d − d − 1 | 1 − e^d |
//!
//! All three are taken as loss terms, as is usual: what is differentiated is the estimate and not the KL. In expectation over
//! π, the gradient of k2 is that of KL(π ‖ π_base); that of k1 is 0, so as a loss it only adds noise; that of k3 is the
//! gradient of KL(π_base ‖ π), which near the base is the same to first order.

use crate::recipe::KlEstimator;

/// (value, derivative with respect to ln π)
pub(super) fn estimate(estimator: KlEstimator, difference: f64) -> (f64, f64) {
    match estimator {
        KlEstimator::K1 => (-difference, 1.0),
        KlEstimator::K2 => (0.5 * difference * difference, -difference),
        KlEstimator::K3 => {
            let beyond_one = difference.exp_m1();
            (beyond_one - difference, -beyond_one)
        }
    }
}
