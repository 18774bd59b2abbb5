//! A small symmetric matrix enters, its eigenvectors leave: Householder's reflections, then QR steps, in f64 and in one order.

/// Eigenvectors of a symmetric t (m, m) as rows, largest eigenvalue first. t is used up.
pub(super) fn eigenvectors(t: &mut [f64], m: usize) -> Vec<f64> {
    let mut vectors = tridiagonalize(t, m);
    let mut diagonal: Vec<f64> = (0..m).map(|i| t[i * m + i]).collect();
    let mut beside: Vec<f64> = (1..m).map(|i| t[i * m + i - 1]).collect();
    diagonalize(&mut diagonal, &mut beside, &mut vectors);
    let mut order: Vec<usize> = (0..m).collect();
    order.sort_by(|&i, &j| diagonal[j].total_cmp(&diagonal[i]).then(i.cmp(&j)));
    order.iter().flat_map(|&i| vectors[i * m..][..m].to_vec()).collect()
}

/// Householder reflections that leave t with a diagonal and its neighbours; returns Z (m, m) with Z t Zᵀ the new t.
fn tridiagonalize(t: &mut [f64], m: usize) -> Vec<f64> {
    let mut z = vec![0f64; m * m];
    (0..m).for_each(|i| z[i * m + i] = 1.0);
    for k in 0..m.saturating_sub(2) {
        // v mirrors what is below the diagonal of column k, x, onto its first component; zero above.
        let mut v: Vec<f64> = (0..m).map(|i| if i > k { t[i * m + k] } else { 0.0 }).collect();
        let length = norm(&v);
        v[k + 1] += if v[k + 1] < 0.0 { -length } else { length };
        let half_square = v.iter().map(|v| v * v).sum::<f64>() / 2.0;
        if half_square == 0.0 {
            continue;
        }
        // t − v wᵀ − w vᵀ with p = t v / (vᵀv / 2) and w = p − v (vᵀp) / vᵀv.
        let mut w: Vec<f64> = t.chunks_exact(m).map(|row| dot_wide(row, &v) / half_square).collect();
        let share = dot_wide(&v, &w) / (2.0 * half_square);
        w.iter_mut().zip(&v).for_each(|(w, v)| *w -= share * v);
        for (i, row) in t.chunks_exact_mut(m).enumerate() {
            let (vi, wi) = (v[i], w[i]);
            row.iter_mut().zip(v.iter().zip(&w)).for_each(|(t, (v, w))| *t -= vi * w + wi * v);
        }
        // z − v (vᵀz) / (vᵀv / 2)
        let mut along = vec![0f64; m];
        for (vi, row) in v.iter().zip(z.chunks_exact(m)) {
            along.iter_mut().zip(row).for_each(|(sum, z)| *sum += vi / half_square * z);
        }
        for (vi, row) in v.iter().zip(z.chunks_exact_mut(m)) {
            row.iter_mut().zip(&along).for_each(|(z, along)| *z -= vi * along);
        }
    }
    z
}

/// QR steps with Wilkinson's shift on a tridiagonal matrix, until it is diagonal; z's rows turn with it (Golub and Van Loan
/// 2013, algorithm 8.3.3).
fn diagonalize(diagonal: &mut [f64], beside: &mut [f64], z: &mut [f64]) {
    let m = diagonal.len();
    let small = |d: &[f64], e: &[f64], i: usize| e[i].abs() <= f64::EPSILON * (d[i].abs() + d[i + 1].abs());
    let mut end = m;
    // Two or three steps an eigenvalue are usual; what is not finite never ends.
    for _ in 0..30 * m {
        while end > 1 && small(diagonal, beside, end - 2) {
            end -= 1;
        }
        if end <= 1 {
            return;
        }
        let mut start = end - 1;
        while start > 0 && !small(diagonal, beside, start - 1) {
            start -= 1;
        }
        let (last, e) = (diagonal[end - 1], beside[end - 2]);
        let half = (diagonal[end - 2] - last) / 2.0;
        let shift = last - e * e / (half + half.hypot(e).copysign(half));
        let (mut x, mut y) = (diagonal[start] - shift, beside[start]);
        for k in start..end - 1 {
            let length = x.hypot(y);
            let (c, s) = if length == 0.0 { (1.0, 0.0) } else { (x / length, y / length) };
            if k > start {
                beside[k - 1] = length;
            }
            let (a, b, f) = (diagonal[k], beside[k], diagonal[k + 1]);
            diagonal[k] = c * c * a + 2.0 * c * s * b + s * s * f;
            diagonal[k + 1] = s * s * a - 2.0 * c * s * b + c * c * f;
            beside[k] = c * s * (f - a) + (c * c - s * s) * b;
            if k + 2 < end {
                (x, y) = (beside[k], s * beside[k + 1]);
                beside[k + 1] *= c;
            }
            rotate_rows(z, m, k, (c, s));
        }
    }
}

/// Rows i and i + 1 of a matrix (·, m): (c x + s y, c y − s x).
fn rotate_rows(matrix: &mut [f64], m: usize, i: usize, (c, s): (f64, f64)) {
    let (x, y) = matrix[i * m..][..2 * m].split_at_mut(m);
    for (x, y) in x.iter_mut().zip(y) {
        (*x, *y) = (c * *x + s * *y, c * *y - s * *x);
    }
}

fn dot_wide(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

pub(super) fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Stream};

    #[test]
    fn eigenvectors_diagonalise() {
        let m = 17;
        let stream = Stream::new(6, Purpose::Weights, 0);
        let mut t = vec![0f64; m * m];
        for i in 0..m {
            for j in 0..=i {
                let entry = stream.normal((i * m + j) as u64);
                (t[i * m + j], t[j * m + i]) = (entry, entry);
            }
        }
        let vectors = eigenvectors(&mut t.clone(), m);
        let mut last = f64::INFINITY;
        for vector in vectors.chunks_exact(m) {
            let image: Vec<f64> =
                t.chunks_exact(m).map(|row| row.iter().zip(vector).map(|(a, b)| a * b).sum()).collect();
            let value: f64 = image.iter().zip(vector).map(|(a, b)| a * b).sum();
            assert!(value <= last);
            last = value;
            let error = image.iter().zip(vector).map(|(a, b)| (a - value * b).powi(2)).sum::<f64>();
            assert!(error.sqrt() < 1e-12);
        }
    }
}
