/* collect.h - garbage is collected in small pieces between the slices of tasks.
 *
 * Lua's own collector works inside allocations, in proportion to them: one string of some megabytes
 * makes it walk the whole heap at once, and memory that is refused makes it collect everything before
 * it gives up. Either holds the loop for tens of milliseconds. In a VM with a loop it is therefore
 * stopped, and driven from here:
 *
 *   a cycle begins   when the heap has doubled since the last one ended
 *   and goes on      after each slice, for a fraction of a millisecond; longer when the heap keeps
 *                    growing meanwhile; in idle turns too, until it ends
 *   over its limit   a task is granted a quarter more, leaves its slice at the next instruction, and
 *                    waits for a whole cycle; it dies if it still holds too much
 *
 * What is freed counts for the request whose slice came last. A VM without a loop keeps Lua's own pace.
 * Thread: the VM's. */
#pragma once
#include "lua/vm/state.h"
#include <stdint.h>

typedef struct {
    size_t begin_bytes;         /* of the heap at which the next cycle begins */
    bool is_on, is_at_work;
    unsigned n_cycles;          /* ended */
} qh_collector;

void qh_collect_open(qh_vm *vm);                    /* the state is new */
/* A piece of work, if there is some. */
void qh_collect_some(qh_vm *vm);
/* Begin a cycle if none is at work, and go on with it for max_us. True: it has ended. */
bool qh_collect_for(qh_vm *vm, int64_t max_us);
/* The value of n_cycles once everything that is garbage now will have been freed. */
unsigned qh_collect_target(const qh_vm *vm);
