// Rows: embedding, gathering and scattering, rounding, scaling. One block of 256 threads a row.
#include "prelude.cuh"

#define ROW_THREADS 256

// out = embedding[token] · scale
KERNEL(embed, ROW_THREADS, const bf16* embedding, int embedding_row, const u32* tokens, float scale, int width,
       float* out) {
    const bf16* from = embedding + (size_t)tokens[block_x()] * embedding_row;
    for (int i = thread(); i < width; i += ROW_THREADS) out[(size_t)block_x() * width + i] = widen(from[i]) * scale;
}

// The tokens that the step before chose become the input of the next: tokens[i] = choices[sources[i]], of which each has
// four numbers; a source below 0 leaves the token as it is.
KERNEL(next_tokens, ROW_THREADS, const int* sources, const u32* choices, int rows, u32* tokens) {
    int i = block_x() * ROW_THREADS + thread();
    if (i < rows && sources[i] >= 0) tokens[i] = choices[(size_t)sources[i] * 4];
}

// Rows that join take what they begin with: x[i] = begun[joins[i]]; a number below 0 leaves the row as it is.
KERNEL(join_rows, ROW_THREADS, const bf16* begun, int begun_row, const int* joins, int width, bf16* x, int x_row) {
    int from = joins[block_x()];
    if (from < 0) return;
    for (int i = thread(); i < width; i += ROW_THREADS)
        x[(size_t)block_x() * x_row + i] = begun[(size_t)from * begun_row + i];
}

// out[i] = x[rows[i]]
KERNEL(gather_rows, ROW_THREADS, const float* x, const u32* rows, int width, float* out) {
    const float* from = x + (size_t)rows[block_x()] * width;
    for (int i = thread(); i < width; i += ROW_THREADS) out[(size_t)block_x() * width + i] = from[i];
}

// out[rows[b]] += x[sources[begins[b]]] + … + x[sources[begins[b + 1] - 1]], in this order: no two blocks meet.
KERNEL(scatter_rows, ROW_THREADS, const float* x, const u32* rows, const u32* begins, const u32* sources, int width,
       float* out) {
    float* to = out + (size_t)rows[block_x()] * width;
    for (int i = thread(); i < width; i += ROW_THREADS) {
        float sum = to[i];
        for (u32 s = begins[block_x()]; s < begins[block_x() + 1]; s++) sum += x[(size_t)sources[s] * width + i];
        to[i] = sum;
    }
}

// The operand of a product: x rounded.
KERNEL(round_rows, ROW_THREADS, const float* x, int width, bf16* out, int out_row) {
    for (int i = thread(); i < width; i += ROW_THREADS)
        out[(size_t)block_x() * out_row + i] = narrow(x[(size_t)block_x() * width + i]);
}

// x *= factors[row]
KERNEL(scale_rows, ROW_THREADS, float* x, const float* factors, int width) {
    for (int i = thread(); i < width; i += ROW_THREADS) x[(size_t)block_x() * width + i] *= factors[block_x()];
}
