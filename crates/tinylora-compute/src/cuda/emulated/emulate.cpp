// Runs kernels on the CPU, block after block. Each thread of a block is a fiber with its own stack. Memory ends at a page
// that can't be touched, so that reading or writing beyond an array ends the program instead of passing unseen.
//
// `order` changes what is free to differ: bit 0, asynchronous copies happen when they are waited for instead of at
// once; bit 1, the last warp runs first. A missing barrier or a wait for too few copies then changes the result.
//
// A launch is one thread of the host from its beginning to its end; others may be under way on other threads.
#include "machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

#include <map>
#include <string>
#include <vector>

namespace emu {
struct Copy {
    void* to;
    const void* from;
    int valid, group;
};

enum State { READY, AT_WARP, AT_BARRIER, AT_PART, WAITING, DONE };

struct Fiber {
    void* stack_pointer;
    u8* stack;
#ifndef __x86_64__
    ucontext_t context;
#endif
    State state;
    const char* what;
    void* brought;
    std::vector<Copy> copies;
    int groups;
    // Of WAITING: what ends it. Of AT_PART: how many threads the barrier is for.
    std::function<bool()> ready;
    int part;
};

struct Kernel {
    int threads;
    std::vector<size_t> sizes;
    std::function<void(void**)> run;
};

const size_t STACK = 512 << 10;
static std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

struct Fibers : std::vector<Fiber> {
    ~Fibers() {
        for (Fiber& f : *this)
            if (f.stack) munmap(f.stack, STACK);
    }
};

static thread_local Fibers fibers;
// Of each warp, the lanes that have come to what it does together.
static thread_local std::vector<int> arrived;
thread_local int current, count, order;
static thread_local int block_index[3], grid[3];
static thread_local const Kernel* kernel;
static thread_local void** arguments;
thread_local u8 *shared, *shared_end, *window;
static thread_local std::string* name_now;
// A launch that failed is left as it stands; the next one begins anew.
struct Failed {};
static thread_local bool in_fiber, has_failed;

#ifdef __x86_64__
static thread_local void* host_stack;
extern "C" void emulated_switch(void** save, void* to);
asm(R"(
.text
.globl emulated_switch
emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
static void to_host() { emulated_switch(&fibers[current].stack_pointer, host_stack); }
static void switch_to_fiber() { emulated_switch(&host_stack, fibers[current].stack_pointer); }
#else
static thread_local ucontext_t host_context;
static void to_host() { swapcontext(&fibers[current].context, &host_context); }
static void switch_to_fiber() { swapcontext(&host_context, &fibers[current].context); }
#endif

static void to_fiber() {
    in_fiber = true;
    switch_to_fiber();
    in_fiber = false;
    if (has_failed) throw Failed();
}

void fail(const char* message) {
    fprintf(stderr, "emulated kernel %s, block (%d, %d, %d), thread %d: %s\n", name_now->c_str(), block_index[0],
            block_index[1], block_index[2], current, message);
    has_failed = true;
    if (!in_fiber) throw Failed();
    to_host();
    abort();
}

static void finish_copies(Fiber& f, int pending) {
    size_t left = 0;
    for (Copy& c : f.copies) {
        if (c.group < f.groups - pending) {
            memcpy(c.to, c.from, c.valid);
            memset((u8*)c.to + c.valid, 0, 16 - c.valid);
        } else {
            f.copies[left++] = c;
        }
    }
    f.copies.resize(left);
}

static void body() {
    kernel->run(arguments);
    if (!fibers[current].copies.empty()) fail("it ends with copies under way");
    fibers[current].state = DONE;
    to_host();
}

static void prepare(Fiber& f) {
    if (!f.stack) f.stack = (u8*)mmap(0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    f.state = READY;
    f.copies.clear();
    f.groups = 0;
#ifdef __x86_64__
    void** top = (void**)(f.stack + STACK) - 1;
    *--top = (void*)body;
    for (int i = 0; i < 6; i++) *--top = 0;
    f.stack_pointer = top;
#else
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack;
    f.context.uc_stack.ss_size = STACK;
    makecontext(&f.context, body, 0);
#endif
}

// Runs a warp until none of its lanes can go on; tells whether one could.
static bool run_warp(int first) {
    for (bool any = false;; any = true) {
        bool ran = false;
        for (int lane = 0; lane < 32; lane++) {
            Fiber& f = fibers[first + lane];
            current = first + lane;
            if (f.state == WAITING && f.ready()) f.state = READY;
            if (f.state != READY) continue;
            to_fiber();
            ran = true;
        }
        if (!ran) return any;
    }
}

// Lets the threads of a barrier for a part of the block go on, if all have come.
static bool pass_part() {
    int part = 0, here = 0;
    for (int i = 0; i < count; i++)
        if (fibers[i].state == AT_PART) part = fibers[i].part;
    for (int i = 0; i < part; i++) here += fibers[i].state == AT_PART && fibers[i].part == part;
    if (part == 0 || here != part) return false;
    for (int i = 0; i < part; i++) fibers[i].state = READY;
    return true;
}

// Lets all go on from the block's barrier, if all have come to it.
static bool pass_barrier() {
    for (int i = 0; i < count; i++)
        if (fibers[i].state != AT_BARRIER) return false;
    for (int i = 0; i < count; i++) fibers[i].state = READY;
    return true;
}

// Nobody can go on.
static void fail_stuck() {
    const char* waits[] = {"it can go on", "it waits for the rest of its warp, which does not come",
                           "it waits at the block's barrier, which others have passed or never reach",
                           "it waits at a barrier of some threads, which do not come", "", ""};
    for (int i = 0; i < count; i++) {
        current = i;
        if (fibers[i].state == WAITING) fail(("it waits for ever for " + std::string(fibers[i].what)).c_str());
        if (fibers[i].state != DONE) fail(waits[fibers[i].state]);
    }
}

static void run_block() {
    for (int i = 0; i < count; i++) prepare(fibers[i]);
    arrived.assign(count / 32, 0);
    memset(shared, 0xff, shared_end - shared);
    begin_beside();
    for (;;) {
        int warps = count / 32, done = 0;
        bool ran = false;
        for (int w = 0; w < warps; w++) ran |= run_warp((order & 2 ? warps - 1 - w : w) * 32);
        for (int i = 0; i < count; i++) done += fibers[i].state == DONE;
        if (done == count) break;
        if (!ran && !pass_part() && !pass_barrier() && !one_beside()) fail_stuck();
    }
    end_beside();
}

int thread() { return current; }
int threads() { return count; }
int block(int axis) { return block_index[axis]; }
int blocks_x() { return grid[0]; }
u8* dynamic_shared() { return shared; }

void block_barrier() {
    fibers[current].state = AT_BARRIER;
    to_host();
}

void part_barrier(int threads) {
    if (threads > count || current >= threads) fail("a barrier of other threads than these");
    fibers[current].part = threads;
    fibers[current].state = AT_PART;
    to_host();
}

void wait_until(const char* what, std::function<bool()> ready) {
    if (ready()) return;
    Fiber& f = fibers[current];
    f.what = what;
    f.ready = ready;
    f.state = WAITING;
    to_host();
}

u32 shared_address(const void* p) { return (u32)((const u8*)p - window); }

void together(const char* what, void* brought, void (*perform)(void** lanes)) {
    int first = current / 32 * 32;
    fibers[current].what = what;
    fibers[current].brought = brought;
    fibers[current].state = AT_WARP;
    if (++arrived[current / 32] < 32) return to_host();
    arrived[current / 32] = 0;
    void* lanes[32];
    for (int lane = 0; lane < 32; lane++) {
        Fiber& f = fibers[first + lane];
        if (f.what != what && strcmp(f.what, what) != 0) fail("lanes of a warp do different things");
        lanes[lane] = f.brought;
    }
    perform(lanes);
    for (int lane = 0; lane < 32; lane++) fibers[first + lane].state = READY;
}

void copy(void* to, const void* from, int valid) {
    Fiber& f = fibers[current];
    if ((u8*)to < shared || (u8*)to + 16 > shared_end) fail("a copy leaves the shared memory that was asked for");
    if ((size_t)to % 16 || (valid && (size_t)from % 16)) fail("a copy is not on a boundary of 16 bytes");
    if (valid < 0 || valid > 16) fail("a copy of more than 16 bytes");
    f.copies.push_back({to, from, valid, f.groups});
    if (!(order & 1)) {
        memcpy(to, from, valid);
        memset((u8*)to + valid, 0, 16 - valid);
    }
}

void commit() { fibers[current].groups++; }

void wait(int pending) {
    Fiber& f = fibers[current];
    if (order & 1) {
        finish_copies(f, pending);
    } else {
        size_t left = 0;
        for (Copy& c : f.copies)
            if (c.group >= f.groups - pending) f.copies[left++] = c;
        f.copies.resize(left);
    }
}

struct Multiply {
    float* c;
    u32 a[4], b[2];
};

__attribute__((optimize("O3"))) static void multiply(void** lanes) {
    float a[16][16], b[16][8], d[16][8];
    for (int l = 0; l < 32; l++) {
        Multiply* m = (Multiply*)lanes[l];
        for (int e = 0; e < 2; e++) {
            int g = l / 4, t = l % 4 * 2 + e, shift = e * 16;
            a[g][t] = widen((bf16)(m->a[0] >> shift));
            a[g + 8][t] = widen((bf16)(m->a[1] >> shift));
            a[g][t + 8] = widen((bf16)(m->a[2] >> shift));
            a[g + 8][t + 8] = widen((bf16)(m->a[3] >> shift));
            b[t][g] = widen((bf16)(m->b[0] >> shift));
            b[t + 8][g] = widen((bf16)(m->b[1] >> shift));
            d[g][t] = m->c[e];
            d[g + 8][t] = m->c[2 + e];
        }
    }
    // A product of two bf16 numbers is exact, so that this rounds once, as fmaf does.
    for (int r = 0; r < 16; r++)
        for (int k = 0; k < 16; k++)
            for (int c = 0; c < 8; c++) d[r][c] += a[r][k] * b[k][c];
    for (int l = 0; l < 32; l++)
        for (int e = 0; e < 4; e++) ((Multiply*)lanes[l])->c[e] = d[l / 4 + e / 2 * 8][l % 4 * 2 + e % 2];
}

void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    Multiply own = {c, {a[0], a[1], a[2], a[3]}, {b0, b1}};
    together("mma", &own, multiply);
}

struct Load {
    u32* r;
    const bf16* row;
    bool turned;
};

void load_matrices(u32 (&r)[4], const void* row, bool turned) {
    if ((u8*)row < shared || (u8*)row + 16 > shared_end || (size_t)row % 16) fail("a matrix lies outside shared memory");
    Load own = {r, (const bf16*)row, turned};
    together(turned ? "turned load" : "load", &own, [](void** lanes) {
        for (int l = 0; l < 32; l++)
            for (int m = 0; m < 4; m++) {
                Load* own = (Load*)lanes[l];
                u32 pair[2];
                for (int e = 0; e < 2; e++) {
                    int row = own->turned ? l % 4 * 2 + e : l / 4, column = own->turned ? l / 4 : l % 4 * 2 + e;
                    pair[e] = ((Load*)lanes[m * 8 + row])->row[column];
                }
                own->r[m] = pair[0] | pair[1] << 16;
            }
    });
}

void add(const char* name, int threads, std::vector<size_t> sizes, std::function<void(void**)> run) {
    kernels()[name] = {threads, sizes, run};
}
}  // namespace emu

using namespace emu;

extern "C" int emulated_launch(const char* name, const int* blocks, int block_threads, int shared_bytes, void** params,
                               int how) {
    auto found = kernels().find(name);
    if (found == kernels().end()) return 1;
    kernel = &found->second;
    std::string called = name;
    name_now = &called;
    if (block_threads > kernel->threads || block_threads % 32) return 2;
    count = block_threads;
    arguments = params;
    order = how;
    if ((int)fibers.size() < count) fibers.resize(count);
    size_t pages = ((size_t)shared_bytes + 4095) / 4096 * 4096;
    u8* memory = (u8*)mmap(0, pages + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(memory + pages, 4096, PROT_NONE);
    shared_end = memory + pages;
    shared = shared_end - (shared_bytes + 15) / 16 * 16;
    window = memory;
    has_failed = in_fiber = false;
    for (int i = 0; i < 3; i++) grid[i] = blocks[i];
    try {
        for (int z = 0; z < blocks[2]; z++)
            for (int y = 0; y < blocks[1]; y++)
                for (int x = 0; x < blocks[0]; x++) {
                    block_index[0] = x;
                    block_index[1] = y;
                    block_index[2] = z;
                    run_block();
                }
    } catch (Failed) {
    }
    munmap(memory, pages + 4096);
    return has_failed ? 3 : 0;
}

// The number of a kernel's arguments, and the bytes of each; -1 if there is no such kernel.
extern "C" int emulated_arguments(const char* name, const size_t** sizes) {
    auto found = kernels().find(name);
    if (found == kernels().end()) return -1;
    *sizes = found->second.sizes.data();
    return (int)found->second.sizes.size();
}

// `bytes` of memory, all ones (NaN in every type), before a page that can't be touched.
extern "C" void* emulated_allocate(size_t bytes) {
    size_t pages = (bytes + 16 + 4095) / 4096 * 4096;
    u8* memory = (u8*)mmap(0, pages + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(memory + pages, 4096, PROT_NONE);
    memset(memory, 0xff, pages);
    return memory + pages - (bytes + 15) / 16 * 16;
}

extern "C" void emulated_free(void* pointer, size_t bytes) {
    size_t pages = (bytes + 16 + 4095) / 4096 * 4096;
    munmap((u8*)pointer + (bytes + 15) / 16 * 16 - pages, pages + 4096);
}
