// Optimizers' steps on very many f32 numbers, computed in f64 as on the host, to the same bits. Blocks of 65536 numbers, as
// there: a block's sum of squares is one chain. What is looked at before anything is changed is one kernel, the change another.
#include "prelude.cuh"

#define OPTIMIZER_BLOCK 65536

// The first number of a block that is not finite, counted from the block's beginning; -1: there is none.
struct First {
    int at;
    float value;
};

struct BlockSum {
    double squares;
    First bad;
};

DEVICE bool is_finite(float x) { return fabsf(x) <= 3.402823466e38f; }

// A thread a block.
KERNEL(gradient_sums, 64, const float* gradient, u64 count, BlockSum* sums) {
    u64 block = (u64)block_x() * 64 + thread(), first = block * OPTIMIZER_BLOCK;
    if (first >= count) return;
    u64 left = count - first;
    int last = left < OPTIMIZER_BLOCK ? (int)left : OPTIMIZER_BLOCK;
    BlockSum sum = {0.0, {-1, 0.0f}};
    for (int i = 0; i < last; i++) {
        float g = gradient[first + i];
        sum.squares += (double)g * (double)g;
        if (sum.bad.at < 0 && !is_finite(g)) sum.bad = {i, g};
    }
    sums[block] = sum;
}

// What the host knows of a step. The gradient is multiplied with `factor` and rounded, where that is not 1.
struct Step {
    u64 count;
    double learning_rate, factor, keep;  // keep: 1 − learning rate · weight decay
    double beta1, beta2, epsilon;
    double correction1, correction2;  // 1 − βᵗ
    int nesterov, unused;
};

DEVICE double clipped(const Step& s, float g) { return s.factor == 1.0 ? g : (float)((double)g * s.factor); }

struct Adamw {
    float mean, square, parameter;
};

DEVICE Adamw adamw(const Step& s, float gradient, float mean, float square, float parameter) {
    double g = clipped(s, gradient);
    Adamw next;
    next.mean = (float)(s.beta1 * (double)mean + (1.0 - s.beta1) * g);
    next.square = (float)(s.beta2 * (double)square + (1.0 - s.beta2) * g * g);
    double denominator = sqrt((double)next.square / s.correction2) + s.epsilon;
    // 0/0 only with ε = 0 and a gradient that was always 0: no movement.
    double direction = next.mean == 0.0f ? 0.0 : (double)next.mean / s.correction1 / denominator;
    next.parameter = (float)((double)parameter * s.keep - s.learning_rate * direction);
    return next;
}

// The first of its numbers that is not finite.
DEVICE bool is_bad(const Adamw& a, float& value) {
    value = !is_finite(a.parameter) ? a.parameter : !is_finite(a.mean) ? a.mean : a.square;
    return !is_finite(value);
}

struct Sgd {
    float momentum, parameter;
};

DEVICE Sgd sgd(const Step& s, float gradient, float momentum, float parameter) {
    double g = clipped(s, gradient);
    Sgd next;
    next.momentum = (float)(s.beta1 * (double)momentum + g);
    double direction = s.nesterov ? g + s.beta1 * (double)next.momentum : (double)next.momentum;
    next.parameter = (float)((double)parameter * s.keep - s.learning_rate * direction);
    return next;
}

DEVICE bool is_bad(const Sgd& a, float& value) {
    value = !is_finite(a.parameter) ? a.parameter : a.momentum;
    return !is_finite(value);
}

// Threads look at every 256th number of a block; look(i, value) tells whether number i becomes one that is not finite.
template <class F>
DEVICE void find_first(const Step& s, First* found, F look) {
    SHARED First of_thread[256];
    u64 first = (u64)block_x() * OPTIMIZER_BLOCK, left = s.count - first;
    int last = left < OPTIMIZER_BLOCK ? (int)left : OPTIMIZER_BLOCK;
    First own = {-1, 0.0f};
    for (int i = thread(); i < last && own.at < 0; i += 256) {
        float value;
        if (look(first + i, value)) own = {i, value};
    }
    of_thread[thread()] = own;
    block_barrier();
    if (thread() > 0) return;
    for (int i = 1; i < 256; i++)
        if (of_thread[i].at >= 0 && (own.at < 0 || of_thread[i].at < own.at)) own = of_thread[i];
    found[block_x()] = own;
}

KERNEL(adamw_look, 256, Step s, const float* gradient, const float* mean, const float* square, const float* parameters,
       First* found) {
    find_first(s, found, [&](u64 i, float& value) {
        return is_bad(adamw(s, gradient[i], mean[i], square[i], parameters[i]), value);
    });
}

KERNEL(adamw_step, 256, Step s, const float* gradient, float* mean, float* square, float* parameters) {
    u64 i = (u64)block_x() * 256 + thread();
    if (i >= s.count) return;
    Adamw next = adamw(s, gradient[i], mean[i], square[i], parameters[i]);
    mean[i] = next.mean;
    square[i] = next.square;
    parameters[i] = next.parameter;
}

KERNEL(sgd_look, 256, Step s, const float* gradient, const float* momentum, const float* parameters, First* found) {
    find_first(s, found, [&](u64 i, float& value) {
        return is_bad(sgd(s, gradient[i], momentum[i], parameters[i]), value);
    });
}

KERNEL(sgd_step, 256, Step s, const float* gradient, float* momentum, float* parameters) {
    u64 i = (u64)block_x() * 256 + thread();
    if (i >= s.count) return;
    Sgd next = sgd(s, gradient[i], momentum[i], parameters[i]);
    momentum[i] = next.momentum;
    parameters[i] = next.parameter;
}
