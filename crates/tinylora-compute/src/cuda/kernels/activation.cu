// Gated activations: h = act(gate) · up, forward and backward. A row holds gate (F), then up (F), as the one
// product with both weights leaves it.
#include "prelude.cuh"

#define GATED_THREADS 256

// (act(x), act'(x)); kind 0: x · sigmoid(x); 1: x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))).
DEVICE void value_and_slope(int kind, float x, float& value, float& slope) {
    if (kind == 0) {
        float s = 1.0f / (1.0f + exp_fast(-x));
        value = x * s;
        slope = s + value * (1.0f - s);
    } else {
        float root = 0.7978846f, x2 = x * x;
        float t = 2.0f / (1.0f + exp_fast(-2.0f * root * fmaf(x2 * 0.044715f, x, x))) - 1.0f;
        float above = 0.5f * (1.0f + t);
        value = x * above;
        slope = fmaf(0.5f * x * (1.0f - t * t), root * fmaf(x2, 3.0f * 0.044715f, 1.0f), above);
    }
}

KERNEL(gated, GATED_THREADS, int kind, const bf16* gate_up, int row_length, int rows, int width, bf16* out,
       int out_row) {
    int column = block_x() * GATED_THREADS + thread(), row = block_y();
    if (column >= width) return;
    const bf16* from = gate_up + (size_t)row * row_length + column;
    float value, slope;
    value_and_slope(kind, widen(from[0]), value, slope);
    out[(size_t)row * out_row + column] = narrow(value * widen(from[width]));
}

// Turns (gate, up) in place into (∂L/∂gate, ∂L/∂up), given ∂L/∂h.
KERNEL(gated_backward, GATED_THREADS, int kind, bf16* gate_up, int row_length, int rows, int width,
       const bf16* gradient, int gradient_row) {
    int column = block_x() * GATED_THREADS + thread(), row = block_y();
    if (column >= width) return;
    bf16* at = gate_up + (size_t)row * row_length + column;
    float value, slope, up = widen(at[width]), d = widen(gradient[(size_t)row * gradient_row + column]);
    value_and_slope(kind, widen(at[0]), value, slope);
    at[0] = narrow(d * up * slope);
    at[width] = narrow(d * value);
}
