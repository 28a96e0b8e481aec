/* vm_fixture.h - a loop, a watchdog and a VM for tests; run(f, source) runs a chunk as a task. */
#pragma once
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "lua/bind/bind.h"
#include "lua/vm/budget.h"
#include "lua/vm/task.h"
#include "lua/vm/vm_private.h"
#include "test.h"
#include <lauxlib.h>

typedef struct {
    qh_loop *loop;
    qh_budget *budget;
    qh_vm *vm;
    qh_task_limits limits;
} fixture;

typedef struct {
    qh_task_end end;
    bool is_done;
    qh_str text;                /* tostring of the first result, or the error's message */
    int64_t lua_us;
} outcome;

static inline void outcome_set(void *user, qh_task *t, qh_task_end end, lua_State *L, int n)
{
    outcome *o = user;
    o->is_done = true;
    o->end = end;
    o->lua_us = qh_task_lua_us(t);
    qh_str_clear(&o->text);
    if (end) lua_getfield(L, -1, "message");
    else if (n) lua_pushvalue(L, -n);
    else lua_pushliteral(L, "(nothing)");
    luaL_tolstring(L, -1, NULL);
    size_t len;
    const char *s = lua_tolstring(L, -1, &len);
    qh_str_append(&o->text, s, len);
}
static const qh_task_ops OUTCOME_OPS = {outcome_set};

static inline fixture fixture_open(const char *app_dir)
{
    fixture f = {.limits = qh_task_limits_default};
    qh_err err = {0};
    CHECK_OK(qh_loop_new(&f.loop, &err));
    CHECK_OK(qh_budget_new(&f.budget, &err));
    qh_vm_opts opts = {
        .app_dir = app_dir, .loop = f.loop, .budget = f.budget, .bind = qh_bind_base};
    if (qh_vm_new(&f.vm, &opts, &err)) fail_msg("%s", err.msg);
    return f;
}

static inline void fixture_close(fixture *f)
{
    qh_vm_free(f->vm);
    qh_budget_free(f->budget);
    qh_loop_free(f->loop);
}

static inline qh_task *task_of(fixture *f, const char *source, outcome *o)
{
    lua_State *L = qh_vm_lua(f->vm);
    qh_vm_privileged_begin(f->vm);
    if (luaL_loadbufferx(L, source, strlen(source), "@test", "t"))
        fail_msg("%s", lua_tostring(L, -1));
    qh_vm_privileged_end(f->vm);
    *o = (outcome){0};
    return qh_task_new(f->vm, 0, &f->limits, &OUTCOME_OPS, o);
}

static inline void finish(fixture *f, outcome *o)
{
    int64_t until = qh_now_us() + 10000000;
    while (!o->is_done && qh_now_us() < until) qh_loop_turn(f->loop, true);
    CHECK(o->is_done);
}

static inline outcome run(fixture *f, const char *source)
{
    outcome o;
    qh_task_start(task_of(f, source, &o));
    finish(f, &o);
    return o;
}

#define CHECK_RUN(f, source, want)                                                                 \
    do {                                                                                           \
        outcome run_o = run((f), (source));                                                        \
        if (strcmp(qh_str_z(&run_o.text), (want)) != 0)                                            \
            print_error("%s\n  got  %s\n  want %s\n", (source), qh_str_z(&run_o.text), (want));    \
        CHECK(strcmp(qh_str_z(&run_o.text), (want)) == 0);                                         \
        CHECK_INT(run_o.end, QH_TASK_OK);                                                          \
        qh_str_deinit(&run_o.text);                                                                \
    } while (0)

#define CHECK_FAILS(f, source, want_end, part)                                                     \
    do {                                                                                           \
        outcome run_o = run((f), (source));                                                        \
        if (run_o.end != (want_end) || !strstr(qh_str_z(&run_o.text), (part)))                     \
            print_error("%s\n  ended %d: %s\n  want  %d: %s\n", (source), (int)run_o.end,          \
                        qh_str_z(&run_o.text), (int)(want_end), (part));                           \
        CHECK(run_o.end == (want_end) && strstr(qh_str_z(&run_o.text), (part)));                   \
        qh_str_deinit(&run_o.text);                                                                \
    } while (0)
