//! The head against f64 over the whole vocabulary, and the numerics contract on every instruction set.

use super::*;
use crate::packed::Precision;
use crate::testing::numbers;

struct Exact {
    log_p: Vec<f64>,
    entropy: f64,
}

fn exact(head: &PackedMatrix, x: &[f32], inverse_temperature: f64) -> Exact {
    let logit = |v: usize| -> f64 {
        let dot: f64 = x.iter().enumerate().map(|(i, &x)| f64::from(x) * f64::from(head.get(v, i))).sum();
        dot * inverse_temperature
    };
    let logits: Vec<f64> = (0..head.rows()).map(logit).collect();
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let normalizer = top + logits.iter().map(|l| (l - top).exp()).sum::<f64>().ln();
    let log_p: Vec<f64> = logits.iter().map(|l| l - normalizer).collect();
    Exact { entropy: -log_p.iter().map(|l| l.exp() * l).sum::<f64>(), log_p }
}

#[test]
fn statistics_and_directions_match_f64() {
    for (vocabulary, width, rows, precision) in [
        (1000, 40, 70, Precision::F32),
        (700, 33, 3, Precision::Bf16),
        (256, 700, 5, Precision::F32),
        (5, 8, 1, Precision::F32),
    ] {
        for kernel in Kernel::available() {
            let cpu = Cpu::new(kernel, 2);
            let e: Vec<f32> = numbers(1, vocabulary * width).iter().map(|x| x * 2.0).collect();
            let head = PackedMatrix::from_slice(&cpu, (vocabulary, width), precision, &e);
            let mut x = numbers(2, rows * width);
            if precision == Precision::Bf16 {
                // As the kernels that round would.
                x.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
            }
            let targets: Vec<u32> = (0..rows).map(|r| (r * 131 % vocabulary) as u32).collect();
            let statistics = head_statistics(&cpu, &head, &x, 1.0 / 0.7);
            let mut directions = vec![0.0; rows * width];
            let (again, logits) = head_directions(&cpu, &head, &x, &targets, 1.0 / 0.7, &mut directions);
            assert_eq!(statistics.rows, again.rows, "both passes give the same bits");
            let (mut same, mut entropies) = (vec![0.0; rows * width], vec![f32::NAN; rows * width]);
            let with_entropy = head_directions_and_entropies(
                &cpu,
                &head,
                &x,
                &targets,
                1.0 / 0.7,
                &mut same,
                &mut entropies,
            );
            // In tiles the plain sum is made of rounded weights, each off by 2⁻⁹ of itself at most: by less than 6e-3 of these
            // embeddings (up to 2, over a temperature of 0.7) if all were off in one direction, which they aren't.
            let rounded = kernel.has_tiles() && precision == Precision::Bf16;
            assert_eq!(with_entropy.1, logits, "the entropy changes nothing else");
            assert!(rounded || same == directions, "the entropy changes nothing else");
            for row in 0..rows {
                let exact = exact(&head, &x[row * width..][..width], 1.0 / f64::from(0.7f32));
                let got = logits[row] - statistics.rows[row].log_normalizer;
                let wanted = exact.log_p[targets[row] as usize];
                // A chain of `width` terms in f32, then a sum of about the same size.
                assert!((f64::from(got) - wanted).abs() < 2e-6 * (10.0 + wanted.abs()), "{got} {wanted}");
                assert!((f64::from(statistics.rows[row].entropy) - exact.entropy).abs() < 1e-4);
                for i in 0..width {
                    let mean: f64 =
                        (0..vocabulary).map(|v| exact.log_p[v].exp() * f64::from(head.get(v, i))).sum();
                    let wanted = (f64::from(head.get(targets[row] as usize, i)) - mean) / f64::from(0.7f32);
                    let got = f64::from(directions[row * width + i]);
                    assert!((got - wanted).abs() < if rounded { 2e-3 } else { 1e-4 }, "{got} {wanted}");
                    let wanted: f64 = (0..vocabulary)
                        .map(|v| (exact.log_p[v], f64::from(head.get(v, i))))
                        .map(|(log_p, e)| -log_p.exp() * (log_p + exact.entropy) * e / f64::from(0.7f32))
                        .sum();
                    let got = f64::from(entropies[row * width + i]);
                    assert!((got - wanted).abs() < 2e-4, "entropy: {got} {wanted}");
                }
            }
        }
    }
}

/// Against differences of the entropy itself, and the bits of the scalar kernel from every other exact one.
#[test]
fn entropy_directions_are_its_slope_on_every_kernel() {
    let (vocabulary, width, rows) = (700, 24, 3);
    let e: Vec<f32> = numbers(11, vocabulary * width).iter().map(|x| x * 1.5).collect();
    let x = numbers(12, rows * width);
    let run = |kernel| {
        let cpu = Cpu::new(kernel, 2);
        let head = PackedMatrix::from_slice(&cpu, (vocabulary, width), Precision::F32, &e);
        let (mut directions, mut entropies) = (vec![0.0; rows * width], vec![0.0; rows * width]);
        let targets = [5, 300, 699];
        head_directions_and_entropies(&cpu, &head, &x, &targets, 1.3, &mut directions, &mut entropies);
        (head, entropies)
    };
    let (head, scalar) = run(Kernel::Scalar);
    for kernel in Kernel::available() {
        assert_eq!(run(kernel).1, scalar, "{}", kernel.name());
    }
    let h = 1e-3;
    for (at, &slope) in scalar.iter().enumerate() {
        let (row, column) = (at / width, at % width);
        let entropy = |step: f32| {
            let mut x = x[row * width..][..width].to_vec();
            x[column] += step;
            exact(&head, &x, f64::from(1.3f32)).entropy
        };
        let wanted = (entropy(h) - entropy(-h)) / (2.0 * f64::from(h));
        assert!((f64::from(slope) - wanted).abs() < 1e-3, "{at}: {slope} {wanted}");
    }
    assert!(scalar.iter().any(|slope| slope.abs() > 0.1), "there is something to be seen");
}

#[test]
fn many_unlikely_tokens_count() {
    // One token with p = 0.99 and 40,000 of 2e-7 each: their sum is the whole gradient.
    let (vocabulary, width) = (40_000, 8);
    let mut e: Vec<f32> = numbers(7, vocabulary * width).iter().map(|x| 1.0 + 0.1 * x).collect();
    e[..width].fill(4.0);
    let x = vec![0.65; width];
    for kernel in Kernel::available() {
        let cpu = Cpu::new(kernel, 2);
        let head = PackedMatrix::from_slice(&cpu, (vocabulary, width), Precision::F32, &e);
        let exact = exact(&head, &x, 1.0);
        let mut directions = vec![0.0; width];
        let (statistics, _) = head_directions(&cpu, &head, &x, &[0], 1.0, &mut directions);
        let share = f64::from(statistics.rows[0].share_of_largest);
        assert!((share - exact.log_p[0].exp()).abs() < 3e-7, "{share} {}", exact.log_p[0].exp());
        for (i, &got) in directions.iter().enumerate() {
            let mean: f64 = (0..vocabulary).map(|v| exact.log_p[v].exp() * f64::from(head.get(v, i))).sum();
            let wanted = f64::from(head.get(0, i)) - mean;
            // 157 sums of 4e-5 each join one of 4: half a last digit (2.4e-7) of each may go, but no more.
            assert!((f64::from(got) / wanted - 1.0).abs() < 6e-3, "{got} {wanted}");
        }
    }
}

#[test]
fn sampling_follows_the_distribution() {
    let cpu = Cpu::new(Kernel::best(), 2);
    let (vocabulary, width) = (600, 16);
    let e: Vec<f32> = numbers(5, vocabulary * width).iter().map(|x| x * 1.5).collect();
    let head = PackedMatrix::from_slice(&cpu, (vocabulary, width), Precision::F32, &e);
    let row = numbers(6, width);
    let p: Vec<f64> = exact(&head, &row, 1.0).log_p.iter().map(|l| l.exp()).collect();
    let draws = 20_000;
    let x = row.repeat(draws);
    let statistics = head_statistics(&cpu, &head, &x, 1.0);
    let uniforms: Vec<f64> = (0..draws).map(|i| (i as f64 + 0.5) / draws as f64).collect();
    let mut counts = vec![0f64; vocabulary];
    for (choice, &u) in sample(&cpu, &head, &x, &statistics, &uniforms).iter().zip(&uniforms) {
        counts[choice.token as usize] += 1.0 / draws as f64;
        // Inversion of the distribution function: u lies in the token's interval.
        let below: f64 = p[..choice.token as usize].iter().sum();
        assert!(u > below - 1e-4 && u < below + p[choice.token as usize] + 1e-4);
    }
    let distance: f64 = counts.iter().zip(&p).map(|(a, b)| (a - b).abs()).sum();
    assert!(distance < 0.03, "{distance}");
    let best = greedy(&cpu, &head, &row, &head_statistics(&cpu, &head, &row, 1.0))[0];
    let top = (0..vocabulary).max_by(|&a, &b| p[a].total_cmp(&p[b])).expect("not empty");
    assert_eq!(best.token as usize, top);
    assert_eq!(best.logit, logits_at(&cpu, &head, &row, &[best.token], 1.0)[0]);
}
