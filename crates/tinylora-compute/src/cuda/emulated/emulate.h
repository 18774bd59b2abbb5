// The device as the kernels see it, on the CPU: the same names as in prelude.cuh, with the same meaning. Threads are
// fibers; whatever a warp does together (mma, ldmatrix, shuffles) waits until all 32 lanes have come to it.
// Races that the orders tried here don't show, and the device's memory model, are not proven by it.
#pragma once
#include <math.h>
#include <stddef.h>
#include <string.h>

#include <functional>
#include <vector>

#define DEVICE static inline
#define SHARED static thread_local
#define MINUS_INFINITY (-INFINITY)

namespace emu {
int thread();
int threads();
int block(int axis);
int blocks_x();
void block_barrier();
// Waits for all lanes of the warp; the last to come runs `perform` on what each has brought.
void together(const char* what, void* brought, void (*perform)(void** lanes));
u8* dynamic_shared();
void copy(void* to, const void* from, int valid);
void commit();
void wait(int pending);
// `sizes`: bytes of each argument.
void add(const char* name, int threads, std::vector<size_t> sizes, std::function<void(void**)> run);

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(typename std::remove_const<A>::type*)arguments[I]...);
}

struct Registered {
    template <class... A>
    Registered(const char* name, int threads, void (*kernel)(A...)) {
        add(name, threads, {sizeof(A)...}, [kernel](void** a) { call(kernel, a, std::index_sequence_for<A...>()); });
    }
};

template <class T>
struct Shuffled {
    T value;
    int mask;
};

template <class T>
T shuffle_xor(T value, int mask) {
    Shuffled<T> own = {value, mask};
    together("shuffle", &own, [](void** lanes) {
        T values[32];
        for (int i = 0; i < 32; i++) values[i] = ((Shuffled<T>*)lanes[i])->value;
        for (int i = 0; i < 32; i++) {
            Shuffled<T>* lane = (Shuffled<T>*)lanes[i];
            lane->value = values[i ^ lane->mask];
        }
    });
    return own.value;
}
void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1);
void load_matrices(u32 (&r)[4], const void* row, bool turned);
}  // namespace emu

// What the driver describes a tensor with.
struct TensorMap {
    u64 words[16];
};

namespace emu {
const u64 TENSOR_MAP_KIND = 0x74656e736f72ull;
u32 shared_address(const void* p);
void barrier_init(u64* barrier, int arrivals);
void barriers_made();
void barrier_arrive(u64* barrier);
void barrier_expect(u64* barrier, int bytes);
void barrier_wait(u64* barrier, u32 parity);
void tensor_copy(void* to, const TensorMap& map, int column, int row, u64* barrier);
void wgmma(float* d, int columns, u64 a, u64 b, bool turned);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending);
void part_barrier(int threads);
void trade_registers(int count);
}  // namespace emu

#define TEXT_OF(name) #name
#define KERNEL_NAMED(name, threads, ...)                             \
    static void name(__VA_ARGS__);                                   \
    static emu::Registered name##_known(TEXT_OF(name), threads, name); \
    static void name(__VA_ARGS__)
#define KERNEL(name, threads, ...) KERNEL_NAMED(name, threads, __VA_ARGS__)

DEVICE float widen(bf16 x) {
    u32 bits = (u32)x << 16;
    float r;
    memcpy(&r, &bits, 4);
    return r;
}

DEVICE bf16 narrow(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (bf16)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

DEVICE u32 narrow2(float low, float high) { return (u32)narrow(low) | (u32)narrow(high) << 16; }

DEVICE float exp2_fast(float x) {
    float r = exp2f(x);
    return r < 1.17549435e-38f ? 0.0f : r;
}

DEVICE void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) { emu::mma(c, a, b0, b1); }
DEVICE void load_matrices(u32 (&r)[4], const void* row) { emu::load_matrices(r, row, false); }
DEVICE void load_matrices_turned(u32 (&r)[4], const void* row) { emu::load_matrices(r, row, true); }
DEVICE void copy_async(void* to, const void* from, int valid) { emu::copy(to, from, valid); }
DEVICE void copy_commit() { emu::commit(); }
template <int PENDING>
DEVICE void copy_wait() {
    emu::wait(PENDING);
}
DEVICE float shuffle_xor(float x, int mask) { return emu::shuffle_xor(x, mask); }
DEVICE double shuffle_xor(double x, int mask) { return emu::shuffle_xor(x, mask); }
DEVICE void block_barrier() { emu::block_barrier(); }
DEVICE int thread() { return emu::thread(); }
DEVICE int threads() { return emu::threads(); }
DEVICE int block_x() { return emu::block(0); }
DEVICE int block_y() { return emu::block(1); }
DEVICE int block_z() { return emu::block(2); }
DEVICE int blocks_x() { return emu::blocks_x(); }
DEVICE u8* dynamic_shared() { return emu::dynamic_shared(); }

#define IN_PLACE const
DEVICE u32 shared_address(const void* p) { return emu::shared_address(p); }
DEVICE void barrier_init(u64* barrier, int arrivals) { emu::barrier_init(barrier, arrivals); }
DEVICE void barriers_made() { emu::barriers_made(); }
DEVICE void barrier_arrive(u64* barrier) { emu::barrier_arrive(barrier); }
DEVICE void barrier_expect(u64* barrier, int bytes) { emu::barrier_expect(barrier, bytes); }
DEVICE void barrier_wait(u64* barrier, u32 parity) { emu::barrier_wait(barrier, parity); }
DEVICE void tensor_copy(void* to, const TensorMap& map, int column, int row, u64* barrier) {
    emu::tensor_copy(to, map, column, row, barrier);
}
template <bool TURNED, int COUNT>
DEVICE void wgmma(float (&d)[COUNT], u64 a, u64 b) {
    emu::wgmma(d, 2 * COUNT, a, b, TURNED);
}
DEVICE void wgmma_fence() { emu::wgmma_fence(); }
DEVICE void wgmma_commit() { emu::wgmma_commit(); }
template <int PENDING>
DEVICE void wgmma_wait() {
    emu::wgmma_wait(PENDING);
}
template <int COUNT>
DEVICE void sums_settle(float (&)[COUNT]) {}
// Registers are not emulated, but that whole warps trade them is.
template <int COUNT>
DEVICE void registers_fewer() {
    emu::trade_registers(COUNT);
}
template <int COUNT>
DEVICE void registers_more() {
    emu::trade_registers(COUNT);
}
template <int THREADS>
DEVICE void part_barrier() {
    emu::part_barrier(THREADS);
}
