// The low-rank side path around a product, y += B R A x: p = A x, z = R p (R is the row's own adapter's), and for
// training t = Bᵀ dy, dR += Σ t pᵀ, dz = Rᵀ t; where A and B are trained dA += dz xᵀ, dB += dy zᵀ. Everything in f32; sums over rows in f64, since they are long.
#include "prelude.cuh"

#define PROJECT_COLUMNS 8

// Up to three modules share a projection; r of their columns stand side by side. module[i] numbers R.
struct Members {
    int count, rank;
    int module[3];
};

// p[row][s] = Σ_k x[row][k] a[s][k]: a warp takes a row and eight s; lanes add up every 32nd k, then by a tree.
KERNEL(side_project, 128, const bf16* x, int x_row, const float* a, int rows, int inner, int columns, float* p,
       int p_row, int p_at) {
    int row = block_x() * 4 + thread() / 32, first = block_y() * PROJECT_COLUMNS, lane = thread() % 32;
    if (row >= rows) return;
    int count = smaller(columns - first, PROJECT_COLUMNS);
    float sums[PROJECT_COLUMNS];
#pragma unroll
    for (int s = 0; s < PROJECT_COLUMNS; s++) sums[s] = 0.0f;
    for (int k = lane; k < inner; k += 32) {
        float left = widen(x[(size_t)row * x_row + k]);
#pragma unroll
        for (int s = 0; s < PROJECT_COLUMNS; s++)
            if (s < count) sums[s] = fmaf(left, a[(size_t)(first + s) * inner + k], sums[s]);
    }
#pragma unroll
    for (int s = 0; s < PROJECT_COLUMNS; s++) {
        float sum = warp_sum(sums[s]);
        if (lane == 0 && s < count) p[(size_t)row * p_row + p_at + first + s] = sum;
    }
}

// z = R p for each row and member (how 0), or Rᵀ p (how 1). r holds one adapter after the other, each `adapter_length`
// numbers; with how 2 one number a module, which stands for that multiple of the identity: the same bits.
KERNEL(side_apply, 128, Members m, int how, const float* p, int rows, const u32* adapters, const float* r,
       int adapter_length, float* z) {
    int width = m.count * m.rank, index = block_x() * 128 + thread();
    if (index >= rows * width) return;
    int row = index / width, column = index % width, member = column / m.rank, i = column % m.rank;
    const float* own = r + (size_t)adapters[row] * adapter_length;
    if (how == 2) {
        z[index] = fmaf(own[m.module[member]], p[index], 0.0f);
        return;
    }
    own += (size_t)m.module[member] * m.rank * m.rank;
    const float* from = p + (size_t)row * width + member * m.rank;
    float sum = 0.0f;
    for (int j = 0; j < m.rank; j++) sum = fmaf(how ? own[j * m.rank + i] : own[i * m.rank + j], from[j], sum);
    z[index] = sum;
}

// dR[adapter][module][i][j] += Σ over the adapter's rows of t[row][i] p[row][j]. One block an element: grid (r², count,
// adapters). Threads add up every 128th row, ascending, then a fixed tree.
KERNEL(side_gradient, 128, Members m, const float* t, const float* p, int rows, const u32* adapters, double* dr,
       int adapter_length) {
    SHARED double sums[4];
    int i = block_x() / m.rank, j = block_x() % m.rank, member = block_y(), width = m.count * m.rank;
    double sum = 0.0;
    for (int row = thread(); row < rows; row += 128) {
        if (adapters[row] != (u32)block_z()) continue;
        size_t at = (size_t)row * width + member * m.rank;
        sum += (double)t[at + i] * (double)p[at + j];
    }
    sum = warp_sum(sum);
    if (thread() % 32 == 0) sums[thread() / 32] = sum;
    block_barrier();
    if (thread() == 0) {
        size_t at = (size_t)block_z() * adapter_length + (size_t)m.module[member] * m.rank * m.rank + block_x();
        dr[at] += sums[0] + sums[1] + sums[2] + sums[3];
    }
}

#define OUTER_RANKS 8
#define OUTER_ROWS 512

// parts[piece][s][column] = Σ left[row][left_at + s] right[row][column] over the piece's 512 rows, ascending: what the
// gradients of A (dz xᵀ) and of Bᵀ (z dyᵀ) are made of. A thread takes a column and eight s; grid (columns / 128, rank / 8,
// pieces).
KERNEL(side_outer, 128, const float* left, int left_row, int left_at, const bf16* right, int right_row, int rows,
       int columns, int rank, float* parts) {
    int column = block_x() * 128 + thread(), s0 = block_y() * OUTER_RANKS;
    int first = block_z() * OUTER_ROWS, last = smaller(first + OUTER_ROWS, rows), count = smaller(rank - s0, OUTER_RANKS);
    if (column >= columns) return;
    float sums[OUTER_RANKS];
#pragma unroll
    for (int s = 0; s < OUTER_RANKS; s++) sums[s] = 0.0f;
    for (int row = first; row < last; row++) {
        float x = widen(right[(size_t)row * right_row + column]);
        const float* from = left + (size_t)row * left_row + left_at + s0;
#pragma unroll
        for (int s = 0; s < OUTER_RANKS; s++)
            if (s < count) sums[s] = fmaf(from[s], x, sums[s]);
    }
#pragma unroll
    for (int s = 0; s < OUTER_RANKS; s++)
        if (s < count) parts[((size_t)block_z() * rank + s0 + s) * columns + column] = sums[s];
}

// out[i] += Σ parts[piece][i], pieces ascending, in f64.
KERNEL(side_join, 128, const float* parts, int pieces, int length, float* out) {
    int i = block_x() * 128 + thread();
    if (i >= length) return;
    double sum = (double)out[i];
    for (int piece = 0; piece < pieces; piece++) sum += (double)parts[(size_t)piece * length + i];
    out[i] = (float)sum;
}
