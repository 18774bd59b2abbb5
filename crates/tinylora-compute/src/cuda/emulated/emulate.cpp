// Runs kernels on the CPU, block after block. Each thread of a block is a fiber with its own stack. Memory ends at a page
// that can't be touched, so that reading or writing beyond an array ends the program instead of passing unseen.
//
// `order` changes what is free to differ: bit 0, asynchronous copies happen when they are waited for instead of at
// once; bit 1, the last warp runs first. A missing barrier or a wait for too few copies then changes the result.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u16 bf16;
#include "emulate.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <map>
#include <string>
#include <vector>

namespace emu {
struct Copy {
    void* to;
    const void* from;
    int valid, group;
};

enum State { READY, AT_WARP, AT_BARRIER, DONE };

struct Fiber {
    void* stack_pointer;
    u8* stack;
    ucontext_t context;
    State state;
    const char* what;
    void* brought;
    std::vector<Copy> copies;
    int groups;
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
static std::vector<Fiber> fibers;
static int current, count, order, block_index[3], grid[3];
static const Kernel* kernel;
static void** arguments;
static u8 *shared, *shared_end;
static std::string name_now;

static void fail(const char* message) {
    fprintf(stderr, "emulated kernel %s, block (%d, %d, %d), thread %d: %s\n", name_now.c_str(), block_index[0],
            block_index[1], block_index[2], current, message);
    abort();
}

#ifdef __x86_64__
static void* host_stack;
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
static void to_fiber() { emulated_switch(&host_stack, fibers[current].stack_pointer); }
#else
static ucontext_t host_context;
static void to_host() { swapcontext(&fibers[current].context, &host_context); }
static void to_fiber() { swapcontext(&host_context, &fibers[current].context); }
#endif

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

// Runs a warp until all its lanes are at the barrier or done.
static void run_warp(int first) {
    for (;;) {
        bool ran = false;
        for (int lane = 0; lane < 32; lane++) {
            if (fibers[first + lane].state != READY) continue;
            current = first + lane;
            to_fiber();
            ran = true;
        }
        if (ran) continue;
        for (int lane = 0; lane < 32; lane++)
            if (fibers[first + lane].state == AT_WARP) {
                current = first + lane;
                fail("some lanes wait for the rest of their warp, which does not come");
            }
        return;
    }
}

static void run_block() {
    for (int i = 0; i < count; i++) prepare(fibers[i]);
    memset(shared, 0xff, shared_end - shared);
    for (;;) {
        int warps = count / 32, done = 0, waiting = 0;
        for (int w = 0; w < warps; w++) run_warp((order & 2 ? warps - 1 - w : w) * 32);
        for (int i = 0; i < count; i++) {
            done += fibers[i].state == DONE;
            waiting += fibers[i].state == AT_BARRIER;
        }
        if (done == count) return;
        if (done + waiting != count || (done && waiting)) fail("some threads wait at a barrier that others have passed");
        for (int i = 0; i < count; i++) fibers[i].state = READY;
    }
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

void together(const char* what, void* brought, void (*perform)(void** lanes)) {
    int first = current / 32 * 32;
    fibers[current].what = what;
    fibers[current].brought = brought;
    fibers[current].state = AT_WARP;
    void* lanes[32];
    for (int lane = 0; lane < 32; lane++) {
        Fiber& f = fibers[first + lane];
        if (f.state != AT_WARP) return to_host();
        if (strcmp(f.what, what) != 0) fail("lanes of a warp do different things");
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

void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    Multiply own = {c, {a[0], a[1], a[2], a[3]}, {b0, b1}};
    together("mma", &own, [](void** lanes) {
        float a[16][16], b[16][8];
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
            }
        }
        for (int l = 0; l < 32; l++)
            for (int e = 0; e < 4; e++) {
                int row = l / 4 + e / 2 * 8, column = l % 4 * 2 + e % 2;
                float sum = ((Multiply*)lanes[l])->c[e];
                for (int k = 0; k < 16; k++) sum = fmaf(a[row][k], b[k][column], sum);
                ((Multiply*)lanes[l])->c[e] = sum;
            }
    });
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
    name_now = name;
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
    for (int i = 0; i < 3; i++) grid[i] = blocks[i];
    for (int z = 0; z < blocks[2]; z++)
        for (int y = 0; y < blocks[1]; y++)
            for (int x = 0; x < blocks[0]; x++) {
                block_index[0] = x;
                block_index[1] = y;
                block_index[2] = z;
                run_block();
            }
    munmap(memory, pages + 4096);
    return 0;
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
