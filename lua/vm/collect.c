/* collect.c - see collect.h */
#include "lua/vm/vm_private.h"
#include "base/clock.h"

enum {
    LEAST_BYTES = 4 << 20,      /* a smaller heap is left alone */
    PIECE_US = 200,             /* after a slice */
    HURRY_US = 1500,            /* ... while the heap grows faster than that collects */
    STEP_WORK = 20              /* percent of Lua's own step: some 10,000 values */
};

void qh_collect_open(qh_vm *vm)
{
    lua_gc(vm->L, LUA_GCSTOP);
    lua_gc(vm->L, LUA_GCINC, 0, STEP_WORK, 0);
    vm->collector = (qh_collector){.begin_bytes = LEAST_BYTES, .is_on = true};
}

bool qh_collect_for(qh_vm *vm, int64_t max_us)
{
    qh_collector *c = &vm->collector;
    int64_t until_us = qh_now_us() + max_us;
    c->is_at_work = true;
    do {
        if (!lua_gc(vm->L, LUA_GCSTEP, 0)) continue;
        c->is_at_work = false;
        c->n_cycles++;
        c->begin_bytes = vm->used_bytes * 2 > LEAST_BYTES ? vm->used_bytes * 2 : LEAST_BYTES;
        return true;
    } while (qh_now_us() < until_us);
    return false;
}

void qh_collect_some(qh_vm *vm)
{
    qh_collector *c = &vm->collector;
    if (!c->is_on || (!c->is_at_work && vm->used_bytes < c->begin_bytes)) return;
    bool is_hurried = vm->used_bytes > c->begin_bytes + c->begin_bytes / 4;
    qh_collect_for(vm, is_hurried ? HURRY_US : PIECE_US);
}

/* What died after a cycle began may outlive it. */
unsigned qh_collect_target(const qh_vm *vm)
{
    return vm->collector.n_cycles + (vm->collector.is_at_work ? 2 : 1);
}
