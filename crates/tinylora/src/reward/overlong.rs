//! A completion's length enters, DAPO's soft overlong penalty leaves (Yu et al. 2025, eq. 13).

/// What is added to the reward of a completion of so many tokens: 0 up to `longest − margin`, from there on a line down to
/// −`penalty` at `longest`. Computed in f64. A margin of 0 adds nothing.
pub fn overlong_penalty(tokens: usize, longest: usize, margin: usize, penalty: f32) -> f32 {
    let over = (tokens + margin).saturating_sub(longest).min(margin);
    if over == 0 { 0.0 } else { (-f64::from(penalty) * over as f64 / margin as f64) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_falls_on_a_line_to_the_longest() {
        let of = |tokens| overlong_penalty(tokens, 20, 8, 0.5);
        assert_eq!([0, 12, 13, 16, 19, 20, 25].map(of), [0.0, 0.0, -0.0625, -0.25, -0.4375, -0.5, -0.5]);
        assert_eq!(overlong_penalty(20, 20, 0, 1.0), 0.0);
        assert_eq!(overlong_penalty(20, 20, 20, 1.0), -1.0);
    }
}
