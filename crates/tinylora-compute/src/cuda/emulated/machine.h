// What the emulated machine's parts know of each other: emulate.cpp runs threads, hopper.cpp has what goes on beside them.
#pragma once
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u16 bf16;
#include "emulate.h"

namespace emu {
extern thread_local int current, count, order;
// The shared memory that was asked for. Its addresses, as the device counts them, begin at `window`.
extern thread_local u8 *shared, *shared_end, *window;

// Ends the launch with an error.
[[noreturn]] void fail(const char* message);
// Has this thread wait until it is so; `what` is told of a thread that waits for ever.
void wait_until(const char* what, std::function<bool()> ready);

// What goes on beside the threads: nothing of it, in a new block.
void begin_beside();
// Does one thing, if there is one; called when no thread can go on.
bool one_beside();
// Fails if something is under way when the last thread has ended.
void end_beside();
}  // namespace emu
