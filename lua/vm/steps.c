/* steps.c - time: the end of a slice from the watchdog's hook, and the steps that C functions count
 * in place of hooks, for none fires inside them */
#include "lua/vm/task_private.h"
#include <lauxlib.h>

/* ---- overrun: from the hook ---- */

bool qh_task_can_yield(const qh_vm *vm, lua_State *L)
{
    if (!vm->opts.loop || !lua_isyieldable(L)) return false;
    for (int i = 0; i < vm->n_levels; i++)
        if (!lua_isyieldable(vm->levels[i])) return false;
    return true;
}

void qh_task_overrun(lua_State *L)
{
    qh_vm *vm = qh_vm_of(L);
    qh_task *t = vm->running;
    const qh_task_limits *limits = &t->root->limits;
    int64_t used = t->meter->cpu_us + qh_budget_used(vm->opts.budget);
    if (t->dying && !t->is_raised) {
        qh_task_raise(L, t, 0);
    } else if (t->dying && used >= t->grace_end_us) {
        qh_budget_hold(vm->opts.budget);        /* no handler of an error may go on from here */
        qh_task_raise(L, t, 0);
    } else if (!t->dying && limits->cpu_us && used >= limits->cpu_us) {
        qh_task_die(t, QH_TASK_CPU);
        t->grace_end_us = used + QH_TASK_GRACE_US;
        qh_task_raise(L, t, 0);
    } else if (qh_task_can_yield(vm, L)) {
        vm->yield_kind = QH_YIELD_SLICE;
        lua_yield(L, 0);
    } else if (!t->stuck_since_us) {
        t->stuck_since_us = used;
    } else if (!t->dying && limits->call_us && vm->opts.loop &&
               used - t->stuck_since_us >= limits->call_us) {
        qh_task_die(t, QH_TASK_CPU);                    /* the others wait: nobody may hold them for long */
        t->is_stuck = true;
        t->grace_end_us = used + QH_TASK_GRACE_US;
        qh_task_raise(L, t, 0);
    }
}

/* ---- steps: what C functions use instead of hooks ---- */

/* CPU of the slice so far; -1: nothing is limited here. The first look starts the call's own
 * time. */
static int64_t look(lua_State *L, qh_steps *s)
{
    qh_vm *vm = qh_vm_of(L);
    s->left = QH_STEPS_A_LOOK;
    if (!vm->opts.budget || !vm->running) return -1;
    const qh_task_limits *l = &vm->running->root->limits;
    int64_t used = qh_budget_used(vm->opts.budget), limit = s->limit_us ? s->limit_us : l->call_us;
    if (!s->end_us) s->end_us = l->call_us ? used + limit : INT64_MAX;
    s->used_us = used;
    return used;
}

bool qh_steps_are_over(lua_State *L, qh_steps *s)
{
    int64_t used = look(L, s);
    return used >= 0 && used >= s->end_us;
}

void qh_steps_look(lua_State *L, qh_steps *s)
{
    int64_t used = look(L, s);
    if (used < 0) return;
    qh_task *t = qh_task_running(L);
    int64_t limit_us = t->root->limits.cpu_us;
    if (!t->dying && limit_us && t->meter->cpu_us + used >= limit_us) {
        qh_task_die(t, QH_TASK_CPU);
        t->grace_end_us = t->meter->cpu_us + used + QH_TASK_GRACE_US;
        qh_task_raise(L, t, 1);
    }
    if (used >= s->end_us) luaL_error(L, "%s takes too long", s->what);
}

bool qh_steps_want_pause(lua_State *L, const qh_steps *s)
{
    if (!s->used_us) return false;
    qh_vm *vm = qh_vm_of(L);
    return vm->running && s->used_us >= vm->running->root->limits.slice_us && qh_task_can_yield(vm, L);
}

bool qh_task_may_pause(lua_State *L) { return qh_vm_of(L)->running && qh_task_can_yield(qh_vm_of(L), L); }

int qh_task_pause(lua_State *L, lua_KContext ctx, lua_KFunction k)
{
    qh_vm_of(L)->yield_kind = QH_YIELD_SLICE;
    return lua_yieldk(L, 0, ctx, k);
}
