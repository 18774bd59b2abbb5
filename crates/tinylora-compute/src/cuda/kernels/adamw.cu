// One step of AdamW on f32 parameters, computed in f64 as on the CPU.
#include "prelude.cuh"

struct AdamW {
    double learning_rate, beta1, beta2, epsilon;
    double keep;                      // 1 − learning rate · weight decay
    double correction1, correction2;  // 1 − βᵗ
};

KERNEL(adamw, 256, AdamW a, int count, const float* gradient, float* mean, float* square, float* parameters) {
    int i = block_x() * 256 + thread();
    if (i >= count) return;
    double g = gradient[i];
    float m = (float)(a.beta1 * (double)mean[i] + (1.0 - a.beta1) * g);
    float s = (float)(a.beta2 * (double)square[i] + (1.0 - a.beta2) * g * g);
    double denominator = sqrt((double)s / a.correction2) + a.epsilon;
    // 0/0 only with ε = 0 and a gradient that was always 0: no movement.
    double direction = m == 0.0f ? 0.0 : (double)m / a.correction1 / denominator;
    parameters[i] = (float)((double)parameters[i] * a.keep - a.learning_rate * direction);
    mean[i] = m;
    square[i] = s;
}
