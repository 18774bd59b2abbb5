// RMS norm, forward and backward: y = x · w / √(mean(x²) + ε), one block of 256 threads a row of `width` numbers.
// Families that multiply by 1 + weight give w with the 1 added. Rows are f32; what the tensor cores read is bf16.
#include "prelude.cuh"

#define NORM_THREADS 256

// The sum over the block, in every thread: lanes by a tree, then the warps in order.
DEVICE float block_sum(float x) {
    SHARED float sums[NORM_THREADS / 32];
    x = warp_sum(x);
    if (thread() % 32 == 0) sums[thread() / 32] = x;
    block_barrier();
    float sum = 0.0f;
    for (int i = 0; i < NORM_THREADS / 32; i++) sum += sums[i];
    block_barrier();
    return sum;
}

DEVICE float row_scale(const float* x, int width, float epsilon) {
    float squares = 0.0f;
    for (int i = thread(); i < width; i += NORM_THREADS) squares = fmaf(x[i], x[i], squares);
    return 1.0f / sqrtf(block_sum(squares) / (float)width + epsilon);
}

// out = norm(x), as the operand of a product.
KERNEL(rms_norm, NORM_THREADS, const float* x, const float* weight, float epsilon, int width, bf16* out, int out_row) {
    x += (size_t)block_x() * width;
    out += (size_t)block_x() * out_row;
    float scale = row_scale(x, width, epsilon);
    for (int i = thread(); i < width; i += NORM_THREADS) out[i] = narrow(x[i] * scale * weight[i]);
}

// out += norm(x): a norm before the residual is added.
KERNEL(rms_norm_add, NORM_THREADS, const float* x, const float* weight, float epsilon, int width, float* out) {
    x += (size_t)block_x() * width;
    out += (size_t)block_x() * width;
    float scale = row_scale(x, width, epsilon);
    for (int i = thread(); i < width; i += NORM_THREADS) out[i] += x[i] * scale * weight[i];
}

// With s = 1 / rms: ∂L/∂x = s · w · dy − x · s³ / D · Σ x w dy; calls use(i, value).
template <class F>
DEVICE void norm_backward(const float* x, const float* weight, float epsilon, int width, const float* dy, F use) {
    float scale = row_scale(x, width, epsilon), along = 0.0f;
    for (int i = thread(); i < width; i += NORM_THREADS) along = fmaf(x[i], weight[i] * dy[i], along);
    along = scale * scale * scale * block_sum(along) / (float)width;
    for (int i = thread(); i < width; i += NORM_THREADS) use(i, scale * weight[i] * dy[i] - x[i] * along);
}

// dx += ∂L/∂x
KERNEL(rms_norm_backward_add, NORM_THREADS, const float* x, const float* weight, float epsilon, int width,
       const float* dy, float* dx) {
    size_t row = (size_t)block_x() * width;
    norm_backward(x + row, weight, epsilon, width, dy + row, [&](int i, float d) { dx[row + i] += d; });
}

// dx = ∂L/∂x, as the operand of a product.
KERNEL(rms_norm_backward, NORM_THREADS, const float* x, const float* weight, float epsilon, int width,
       const float* dy, bf16* dx, int dx_row) {
    size_t row = (size_t)block_x() * width;
    bf16* to = dx + (size_t)block_x() * dx_row;
    norm_backward(x + row, weight, epsilon, width, dy + row, [&](int i, float d) { to[i] = narrow(d); });
}
