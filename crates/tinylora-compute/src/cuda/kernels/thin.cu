// Products of a frozen matrix with a few f32 vectors (c ≤ 8), unrounded: the heavy part of a truncated SVD by block
// iteration. Each reads W once.
#include "prelude.cuh"

#define THIN 8
#define THIN_ROWS 256

// y (c, n) = x (c, k) Wᵀ: a warp takes a row of W.
KERNEL(thin_forward, 128, const bf16* w, int w_row, int n, int k, const float* x, int c, float* y) {
    int row = block_x() * 4 + thread() / 32, lane = thread() % 32;
    if (row >= n) return;
    float sums[THIN];
#pragma unroll
    for (int s = 0; s < THIN; s++) sums[s] = 0.0f;
    for (int i = lane; i < k; i += 32) {
        float factor = widen(w[(size_t)row * w_row + i]);
#pragma unroll
        for (int s = 0; s < THIN; s++)
            if (s < c) sums[s] = fmaf(factor, x[(size_t)s * k + i], sums[s]);
    }
#pragma unroll
    for (int s = 0; s < THIN; s++) {
        float sum = warp_sum(sums[s]);
        if (lane == 0 && s < c) y[(size_t)s * n + row] = sum;
    }
}

// parts (pieces of 256 rows, c, k) of y (c, n) W: a thread takes a column of a piece.
KERNEL(thin_back, 128, const bf16* w, int w_row, int n, int k, const float* y, int c, float* parts) {
    int column = block_x() * 128 + thread(), first = block_y() * THIN_ROWS, last = smaller(first + THIN_ROWS, n);
    if (column >= k) return;
    float sums[THIN];
#pragma unroll
    for (int s = 0; s < THIN; s++) sums[s] = 0.0f;
    for (int row = first; row < last; row++) {
        float factor = widen(w[(size_t)row * w_row + column]);
#pragma unroll
        for (int s = 0; s < THIN; s++)
            if (s < c) sums[s] = fmaf(y[(size_t)s * n + row], factor, sums[s]);
    }
#pragma unroll
    for (int s = 0; s < THIN; s++)
        if (s < c) parts[((size_t)block_y() * c + s) * k + column] = sums[s];
}

// z[i] = Σ parts[piece][i], pieces ascending, in f64.
KERNEL(thin_join, 128, const float* parts, int pieces, int length, float* z) {
    int i = block_x() * 128 + thread();
    if (i >= length) return;
    double sum = 0.0;
    for (int piece = 0; piece < pieces; piece++) sum += (double)parts[(size_t)piece * length + i];
    z[i] = (float)sum;
}
