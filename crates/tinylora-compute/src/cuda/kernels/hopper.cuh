// What Hopper (sm_90a) has beyond prelude.cuh: barriers in shared memory that count bytes, copies of tiles by the tensor
// memory accelerator, and products of a warpgroup (four warps) whose operands lie in shared memory. One PTX instruction
// each; where EMULATED is defined the same names come from emulate.h.
#pragma once
#include "prelude.cuh"

#ifndef EMULATED
// As the driver writes it (cuTensorMapEncodeTiled).
struct __align__(64) TensorMap {
    u64 words[16];
};
// Of a kernel's argument: it has an address, and no copy is made of it.
#define IN_PLACE const __grid_constant__

// A barrier whose phases end when so many arrivals, and all bytes that are expected, have come.
DEVICE void barrier_init(u64* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Makes this thread's new barriers known to copies; other threads know of them after the block's barrier.
DEVICE void barriers_made() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

DEVICE void barrier_arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, with so many bytes that are to come.
DEVICE void barrier_expect(u64* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

// Waits for the end of the phase of this parity: the first is 0, then 1, then 0. The one before the first has ended.
DEVICE void barrier_wait(u64* barrier, u32 parity) {
    u32 ended;
    do {
        asm volatile(
            "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
            : "=r"(ended)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
    } while (!ended);
}

// Begins a copy of a map's box at (column, row) to shared memory, where 16 bytes of each row of 128 change places
// (128-byte swizzle). What lies outside the tensor is zero; the box's bytes are counted by the barrier when they are there.
DEVICE void tensor_copy(void* to, const TensorMap& map, int column, int row, u64* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_address(to)),
        "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier))
        : "memory");
}

// Orders what a warp did with its sums before the products that follow.
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Closes a group of products.
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most so many groups of products, the newest, are under way.
template <int PENDING>
DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// Keeps the compiler from reading sums before, or changing them after, the place where this stands.
template <int COUNT>
DEVICE void sums_settle(float (&d)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i])::"memory");
}

#define NAMES_0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define NAMES_1 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NAMES_2 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define NAMES_3 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NAMES_4 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define NAMES_5 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define NAMES_6 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define NAMES_7 "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define NAMES_32 NAMES_0 "," NAMES_1
#define NAMES_64 NAMES_32 "," NAMES_2 "," NAMES_3
#define NAMES_128 NAMES_64 "," NAMES_4 "," NAMES_5 "," NAMES_6 "," NAMES_7
#define SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SUMS_8(i) SUMS_4(i), SUMS_4(i + 4)
#define SUMS_16(i) SUMS_8(i), SUMS_8(i + 8)
#define SUMS_32(i) SUMS_16(i), SUMS_16(i + 16)
#define SUMS_64(i) SUMS_32(i), SUMS_32(i + 32)
#define SUMS_128(i) SUMS_64(i), SUMS_64(i + 64)
#define WGMMA(columns, count, names, sums, a_name, b_name, turned_name)                                         \
    template <bool TURNED>                                                                                      \
    DEVICE void wgmma(float (&d)[count], u64 a, u64 b) {                                                        \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.bf16.bf16 {" names "}, " a_name ", " \
                     b_name ", 1, 1, 1, " turned_name ", 0;"                                                    \
                     : sums                                                                                     \
                     : "l"(a), "l"(b), "n"((int)TURNED)                                                         \
                     : "memory");                                                                               \
    }

// d += a b for a (64, 16) and b (16, 2 COUNT) where descriptors say, when it is waited for. A lane has of rows
// 16 · (warp mod 4) + lane / 4 + 8 (e / 2) and columns 8 j + 2 (lane mod 4) + e mod 2 the sums d[4 j + e]. TURNED: a lies
// with its 64 rows, not its 16 columns, next to each other.
WGMMA(8, 4, "%0,%1,%2,%3", SUMS_4(0), "%4", "%5", "%6")
WGMMA(16, 8, "%0,%1,%2,%3,%4,%5,%6,%7", SUMS_8(0), "%8", "%9", "%10")
WGMMA(32, 16, NAMES_0, SUMS_16(0), "%16", "%17", "%18")
WGMMA(64, 32, NAMES_32, SUMS_32(0), "%32", "%33", "%34")
WGMMA(128, 64, NAMES_64, SUMS_64(0), "%64", "%65", "%66")
WGMMA(256, 128, NAMES_128, SUMS_128(0), "%128", "%129", "%130")

// Gives registers of this group of four warps back, or takes such as others gave back, until a thread has so many.
template <int COUNT>
DEVICE void registers_fewer() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
DEVICE void registers_more() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// A barrier of the block's first threads, so many as are given.
template <int THREADS>
DEVICE void part_barrier() {
    asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory");
}
#endif

// Where a wgmma operand lies: a tile in rows of 128 bytes with the 128-byte swizzle, which repeats every eight rows, so
// that its beginning is on a boundary of 1024. `next` is the way, in bytes, to the next tile of 64 where rows of the
// operand lie next to each other; such a tile has 64 of them, so that it is never gone.
DEVICE u64 operand_at(const void* tile, int next) {
    u64 address = shared_address(tile);
    return (address & 0x3ffff) >> 4 | (u64)(next >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
