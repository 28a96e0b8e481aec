/* task.c - see task.h */
#include "lua/vm/vm_private.h"
#include "lua/vm/module.h"
#include "base/clock.h"
#include "base/mem.h"
#include <lauxlib.h>
#include <string.h>

enum {
    GRACE_US = 10000,   /* CPU for unwinding once a task must die */
    TURN_US = 4000,     /* tasks run one after another for so long before the loop looks around */
    DEEP_CALLS = 10000, /* a recursion without an end looks like this when memory is gone */
    END_TRIES = 100     /* turns that an ending VM gives a task to unwind */
};

const qh_task_limits qh_task_limits_default = {
    .cpu_us = 100000, .slice_us = 2000, .call_us = 25000, .heap_bytes = 64 << 20};

typedef enum { READY, RUNNING, PARKED, ENDING } task_state;

struct qh_task {
    qh_vm *vm;
    lua_State *L;
    int ref;                    /* anchors L in the registry */
    int n_args;                 /* for the first resume: the function and its arguments */
    task_state state;
    qh_task_queue *queue;       /* that it stands in; NULL: none */
    bool is_woken;              /* between a park and the moment its slice has ended */
    bool has_failed;            /* its function raised; the record is its only result */
    bool is_deep;               /* calls were nested deep when memory was refused */
    int64_t stuck_since_us;     /* of cpu_us: its slice is over where it cannot end; 0: no */
    bool is_stuck;              /* it ran out of CPU there */
    bool is_raised;             /* the reason it dies for has been raised */
    qh_task_end dying;          /* QH_TASK_OK: it lives */
    int64_t cpu_us;             /* since the last wait */
    int64_t lua_us;             /* ever */
    int64_t grace_end_us;       /* of cpu_us; dying only */
    int64_t held_bytes;
    qh_task_limits limits;
    const qh_task_ops *ops;
    void *user;
    qh_scoped *scope;           /* newest first */
    qh_task *prev, *next, *next_ready;
};

/* ---- memory ---- */

void qh_task_charge(qh_task *t, int64_t bytes)
{
    if (!t) return;
    t->held_bytes += bytes;
    if (t->held_bytes < 0) t->held_bytes = 0;   /* it collects what others left */
}

bool qh_task_may_take(qh_task *t, size_t more)
{
    lua_Debug ar;
    if (!t || !t->limits.heap_bytes) return true;
    if (more <= (size_t)t->limits.heap_bytes &&
        t->held_bytes <= t->limits.heap_bytes - (int64_t)more)
        return true;
    t->is_deep = lua_getstack(t->vm->levels[t->vm->n_levels - 1], DEEP_CALLS, &ar);
    return false;
}

/* ---- the scope ---- */

void qh_scope_add(qh_task *t, qh_scoped *s)
{
    qh_assert(!s->task);
    s->task = t;
    s->prev = NULL;
    s->next = t->scope;
    if (t->scope) t->scope->prev = s;
    t->scope = s;
}

void qh_scope_remove(qh_scoped *s)
{
    if (!s->task) return;
    if (s->prev) s->prev->next = s->next;
    else s->task->scope = s->next;
    if (s->next) s->next->prev = s->prev;
    s->task = NULL;
    s->prev = s->next = NULL;
}

static void close_scope(qh_task *t)
{
    while (t->scope) {
        qh_scoped *s = t->scope;
        qh_scope_remove(s);
        s->close(s);
    }
}

/* ---- dying ---- */

static const char *reason_of(const qh_task *t)
{
    switch (t->dying) {
    case QH_TASK_CANCELLED: return "cancelled";
    case QH_TASK_CPU:
        return t->is_stuck ? "the script ran too long inside a function that cannot be interrupted"
                           : "the script ran too long without waiting";
    case QH_TASK_MEMORY:
        return t->is_deep ? "stack overflow: calls nested until memory was gone"
                          : "the script used too much memory";
    default: return "not enough memory";
    }
}

static void die(qh_task *t, qh_task_end why)
{
    if (t->dying) return;
    t->dying = why;
    t->grace_end_us = t->cpu_us + GRACE_US;
}

/* level: of the function to blame; in a hook that is the one at work. */
static int raise(lua_State *L, qh_task *t, int level)
{
    t->is_raised = true;
    luaL_where(L, level);
    lua_pushstring(L, reason_of(t));
    lua_concat(L, 2);
    return lua_error(L);
}

bool qh_task_is_dying(const qh_task *t) { return t->dying != QH_TASK_OK; }

void qh_task_check(lua_State *L)
{
    qh_task *t = qh_task_running(L);
    if (t && t->dying) raise(L, t, 1);
}

int qh_task_rethrow(lua_State *L)
{
    qh_task *t = qh_task_running(L);
    if (t && t->dying) return lua_error(L);
    return 0;
}

void qh_task_out_of_memory(lua_State *L)
{
    qh_task *t = qh_task_running(L);
    if (!t) return;
    die(t, QH_TASK_MEMORY);
    t->is_raised = true;
}

/* ---- overrun: from the hook ---- */

static bool can_yield(const qh_vm *vm, lua_State *L)
{
    if (!vm->opts.loop || !lua_isyieldable(L)) return false;
    for (int i = 0; i < vm->n_levels; i++)
        if (!lua_isyieldable(vm->levels[i])) return false;
    return true;
}

static void overrun(lua_State *L)
{
    qh_vm *vm = qh_vm_of(L);
    qh_task *t = vm->running;
    int64_t used = t->cpu_us + qh_budget_used(vm->opts.budget);
    if (t->dying && !t->is_raised) {
        raise(L, t, 0);
    } else if (t->dying && used >= t->grace_end_us) {
        qh_budget_hold(vm->opts.budget);        /* no handler of an error may go on from here */
        raise(L, t, 0);
    } else if (!t->dying && t->limits.cpu_us && used >= t->limits.cpu_us) {
        die(t, QH_TASK_CPU);
        t->grace_end_us = used + GRACE_US;
        raise(L, t, 0);
    } else if (can_yield(vm, L)) {
        vm->yield_kind = QH_YIELD_SLICE;
        lua_yield(L, 0);
    } else if (!t->stuck_since_us) {
        t->stuck_since_us = used;
    } else if (!t->dying && t->limits.call_us && vm->opts.loop &&
               used - t->stuck_since_us >= t->limits.call_us) {
        die(t, QH_TASK_CPU);                    /* the others wait: nobody may hold them for long */
        t->is_stuck = true;
        t->grace_end_us = used + GRACE_US;
        raise(L, t, 0);
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
    const qh_task_limits *l = &vm->running->limits;
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
    if (!t->dying && t->limits.cpu_us && t->cpu_us + used >= t->limits.cpu_us) {
        die(t, QH_TASK_CPU);
        t->grace_end_us = t->cpu_us + used + GRACE_US;
        raise(L, t, 1);
    }
    if (used >= s->end_us) luaL_error(L, "%s takes too long", s->what);
}

bool qh_steps_want_pause(lua_State *L, const qh_steps *s)
{
    if (!s->used_us) return false;
    qh_vm *vm = qh_vm_of(L);
    return vm->running && s->used_us >= vm->running->limits.slice_us && can_yield(vm, L);
}

int qh_task_pause(lua_State *L, lua_KContext ctx, lua_KFunction k)
{
    qh_vm_of(L)->yield_kind = QH_YIELD_SLICE;
    return lua_yieldk(L, 0, ctx, k);
}

/* ---- the body: the task's function under a handler that keeps the place of an error ---- */

static int to_text(lua_State *L)
{
    luaL_tolstring(L, 1, NULL);
    return 1;
}

/* Records carry a metatable that scripts cannot have, so no table of theirs is taken for one. */
static const char RECORD_KEY;

static bool is_record(lua_State *L, int index)
{
    if (!lua_istable(L, index) || !lua_getmetatable(L, index)) return false;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &RECORD_KEY);
    bool yes = lua_istable(L, -1) && lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return yes;
}

/* The table on top. Privileged. */
static void mark_record(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &RECORD_KEY) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_createtable(L, 0, 1);
        lua_pushboolean(L, 0);
        lua_setfield(L, -2, "__metatable");
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &RECORD_KEY);
    }
    lua_setmetatable(L, -2);
}

/* error value -> {message, trace, value}. Runs where the error was raised. */
int qh_error_record(lua_State *L)
{
    qh_vm *vm = qh_vm_of(L);
    lua_settop(L, 1);
    if (is_record(L, 1)) return 1;              /* made by an inner handler: keep the first place */
    lua_pushcfunction(L, to_text);              /* __tostring is the script's, and may fail */
    lua_pushvalue(L, 1);
    bool is_text = lua_pcall(L, 1, 1, 0) == LUA_OK;
    qh_vm_privileged_begin(vm);
    if (!is_text)
        lua_pop(L, 1), lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
    lua_createtable(L, 0, 3);
    luaL_traceback(L, L, lua_tostring(L, -2), 1);
    lua_setfield(L, -2, "trace");
    lua_insert(L, -2);
    lua_setfield(L, -2, "message");
    lua_pushvalue(L, 1);
    lua_setfield(L, -2, "value");
    mark_record(L);
    qh_vm_privileged_end(vm);
    return 1;
}

static int body_end(lua_State *L, int status, lua_KContext ctx)
{
    (void)ctx;
    if (status == LUA_OK || status == LUA_YIELD) return lua_gettop(L) - 1;
    qh_vm_of(L)->running->has_failed = true;
    if (status == LUA_ERRMEM) qh_task_out_of_memory(L);
    return 1;
}

static int body(lua_State *L)
{
    lua_pushcfunction(L, qh_error_record);
    lua_insert(L, 1);
    return body_end(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 1, 0, body_end), 0);
}

/* ---- life ---- */

qh_task *qh_task_new(qh_vm *vm, int n_args, const qh_task_limits *limits, const qh_task_ops *ops,
                     void *user)
{
    qh_vm_privileged_begin(vm);
    qh_task *t = qh_new0(qh_task);
    t->vm = vm;
    t->limits = *limits;
    t->ops = ops;
    t->user = user;
    t->L = lua_newthread(vm->L);
    t->ref = luaL_ref(vm->L, LUA_REGISTRYINDEX);
    qh_coro_mark_of(t->L)->is_task = 1;
    lua_pushcfunction(t->L, body);
    lua_xmove(vm->L, t->L, n_args + 1);
    t->n_args = n_args + 1;
    t->next = vm->tasks;
    if (vm->tasks) vm->tasks->prev = t;
    vm->tasks = t;
    vm->n_tasks++;
    qh_vm_privileged_end(vm);
    return t;
}

static void leave_queue(qh_task *t)
{
    qh_task_queue *q = t->queue;
    if (!q) return;
    qh_task **at = &q->first, *before = NULL;
    for (; *at != t; at = &(*at)->next_ready) before = *at;
    *at = t->next_ready;
    if (q->last == t) q->last = before;
    t->queue = NULL;
}

static qh_task *take_first(qh_task_queue *q)
{
    qh_task *t = q->first;
    if (t) leave_queue(t);
    return t;
}

static void finish(qh_task *t, int status, int n_results)
{
    qh_vm *vm = t->vm;
    qh_task_end end = QH_TASK_OK;
    if (status || t->has_failed) end = t->dying ? t->dying : QH_TASK_FAILED;
    t->state = ENDING;
    close_scope(t);
    leave_queue(t);
    qh_vm_privileged_begin(vm);
    if (status) {                               /* not even the handler could run */
        lua_resetthread(t->L);
        lua_settop(t->L, 0);
        lua_createtable(t->L, 0, 1);
        lua_pushstring(t->L, reason_of(t));
        lua_setfield(t->L, -2, "message");
        mark_record(t->L);
        n_results = 1;
    }
    if (end && !is_record(t->L, -1)) { /* no memory for one, or an error within the handler */
        const char *text =
            lua_type(t->L, -1) == LUA_TSTRING ? lua_tostring(t->L, -1) : "error in error handling";
        lua_createtable(t->L, 0, 1);
        lua_pushstring(t->L, t->dying ? reason_of(t) : text);
        lua_setfield(t->L, -2, "message");
        mark_record(t->L);
    }
    t->ops->on_done(t->user, t, end, t->L, n_results);
    luaL_unref(vm->L, LUA_REGISTRYINDEX, t->ref);
    qh_vm_privileged_end(vm);
    if (t->prev) t->prev->next = t->next;
    else vm->tasks = t->next;
    if (t->next) t->next->prev = t->prev;
    vm->n_tasks--;
    qh_free(t);
}

static void run_turn(void *arg);

static void make_ready(qh_task *t, qh_task_queue *q)
{
    qh_vm *vm = t->vm;
    t->state = READY;
    if (t->queue) return;
    t->queue = q;
    t->next_ready = NULL;
    if (q->last) q->last->next_ready = t;
    else q->first = t;
    q->last = t;
    if (!vm->opts.loop || vm->is_turn_due) return;
    vm->is_turn_due = true;
    qh_loop_defer(vm->opts.loop, run_turn, vm);
}

/* One slice. The task may be gone on return. */
static void run_slice(qh_task *t)
{
    qh_vm *vm = t->vm;
    qh_budget *b = vm->opts.budget;
    int n_args = t->n_args, n_results = 0;
    t->n_args = 0;
    t->state = RUNNING;
    t->is_woken = false;
    t->stuck_since_us = 0;
    vm->running = t;
    if (b) qh_budget_begin(b, t->L, t->limits.slice_us, overrun);
    if (b && t->dying && !t->is_raised) qh_budget_arm(b);   /* it was cut off in plain Lua code */
    int64_t start_us = b ? 0 : qh_now_us();
    int n_privileged = vm->n_privileged;        /* of the host code that called us */
    vm->n_privileged = 0;
    int status = qh_vm_resume(vm, t->L, NULL, n_args, &n_results);
    vm->n_privileged = n_privileged;
    int64_t used = b ? qh_budget_end(b) : qh_now_us() - start_us;
    vm->running = NULL;
    t->lua_us += used;
    t->cpu_us += used;
    if (status != LUA_YIELD) {
        finish(t, status, n_results);
    } else if (vm->yield_kind == QH_YIELD_SLICE) {
        make_ready(t, &vm->cut_off);
    } else if (t->is_woken || t->dying) {
        make_ready(t, &vm->woken);
    } else {
        t->state = PARKED;
        t->cpu_us = 0;
    }
}

/* Who waited and was woken runs first, in order; then one of those who were cut off. So a
 * request that spins delays the others by one slice, however many spin. */
static void run_turn(void *arg)
{
    qh_vm *vm = arg;
    vm->is_turn_due = false;
    int64_t until_us = qh_now_us() + TURN_US;
    qh_task *last = vm->woken.last;             /* those woken from now on wait for the next turn */
    for (qh_task *t; (t = take_first(&vm->woken));) {
        bool is_last = t == last;
        run_slice(t);
        if (is_last || qh_now_us() >= until_us) break;
    }
    qh_task *spinner = take_first(&vm->cut_off);
    if (spinner) run_slice(spinner);
    if ((vm->woken.first || vm->cut_off.first) && !vm->is_turn_due) {
        vm->is_turn_due = true;
        qh_loop_defer(vm->opts.loop, run_turn, vm);
    }
}

void qh_task_start(qh_task *t)
{
    if (t->vm->running) make_ready(t, &t->vm->woken);   /* slices do not nest */
    else run_slice(t);
}

void qh_task_run(qh_task *t)
{
    qh_vm *vm = t->vm;
    qh_assert(!vm->opts.loop && !vm->running);
    run_slice(t);                               /* cannot park or yield its slice without a loop */
}

void qh_task_wake(qh_task *t)
{
    if (t->state == PARKED) make_ready(t, &t->vm->woken);
    else if (t->state == RUNNING) t->is_woken = true;
}

void qh_task_cancel(qh_task *t)
{
    if (t->state == ENDING || t->dying) return;
    die(t, QH_TASK_CANCELLED);
    close_scope(t);
    qh_task_wake(t);
}

void *qh_task_user(const qh_task *t) { return t->user; }
int64_t qh_task_lua_us(const qh_task *t)
{
    bool is_at_work = t->state == RUNNING && t->vm->opts.budget;
    return t->lua_us + (is_at_work ? qh_budget_used(t->vm->opts.budget) : 0);
}
qh_task *qh_task_running(lua_State *L) { return qh_vm_of(L)->running; }

void qh_tasks_end_all(qh_vm *vm)
{
    for (int i = 0; vm->tasks && i < END_TRIES; i++) {
        for (qh_task *t = vm->tasks, *next; t; t = next) {
            next = t->next;
            qh_task_cancel(t);
        }
        for (qh_task *t; (t = take_first(&vm->woken)) || (t = take_first(&vm->cut_off));)
            run_slice(t);
    }
    while (vm->tasks) finish(vm->tasks, LUA_ERRRUN, 0);
    if (vm->is_turn_due) qh_loop_undefer(vm->opts.loop, run_turn, vm);
}

/* ---- waiting ---- */

/* "table.sort" for a function of a library, else nil. */
static void push_function_name(lua_State *L, lua_Debug *ar)
{
    lua_getinfo(L, "f", ar);
    int f = lua_gettop(L);
    lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    for (lua_pushnil(L); lua_next(L, f + 1); lua_pop(L, 1)) {
        if (!lua_istable(L, -1) || lua_type(L, -2) != LUA_TSTRING) continue;
        for (lua_pushnil(L); lua_next(L, f + 3); lua_pop(L, 1)) {
            if (!lua_rawequal(L, -1, f) || lua_type(L, -2) != LUA_TSTRING) continue;
            bool is_global = strcmp(lua_tostring(L, f + 2), LUA_GNAME) == 0;
            if (is_global) lua_pushvalue(L, -2);
            else lua_pushfstring(L, "%s.%s", lua_tostring(L, f + 2), lua_tostring(L, -2));
            lua_replace(L, f);
            lua_settop(L, f);
            return;
        }
    }
    lua_settop(L, f - 1);
    lua_pushnil(L);
}

static bool lets_wait_through(const char *name)
{
    static const char *const NAMES[] = {"pcall", "xpcall", "require"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (strcmp(name, NAMES[i]) == 0) return true;
    return false;
}

/* Raise "<what> cannot wait inside <C function>, <place>". */
static int fail_to_wait(lua_State *L, const char *what)
{
    lua_Debug ar;
    const char *inside = NULL;
    qh_vm *vm = qh_vm_of(L);
    for (int at = vm->n_levels - 1; at >= 0 && !inside; at--) {
        lua_State *co = vm->levels[at];
        if (lua_isyieldable(co)) continue;
        for (int level = at == vm->n_levels - 1 ? 1 : 0; !inside && lua_getstack(co, level, &ar);
             level++) {
            lua_getinfo(co, "S", &ar);
            if (*ar.what != 'C') continue;
            luaL_checkstack(co, 8, NULL);
            push_function_name(co, &ar);
            const char *name = lua_tostring(co, -1);
            if (name && !lets_wait_through(name)) inside = lua_pushstring(L, name);
            if (co != L) lua_pop(co, 1);
        }
    }
    if (!inside) inside = "this function";
    qh_push_app_line(L);
    size_t n;
    const char *place = lua_tolstring(L, -1, &n);
    if (n) lua_pushfstring(L, "%s cannot wait inside %s, %s", what, inside, place);
    else lua_pushfstring(L, "%s cannot wait inside %s", what, inside);
    if (n) lua_pushlstring(L, lua_tostring(L, -1), lua_rawlen(L, -1) - 2);      /* without ": " */
    return lua_error(L);
}

static int fail_at_app(lua_State *L, const char *why, const char *what)
{
    qh_push_app_line(L);
    lua_pushfstring(L, "%s %s", what, why);
    lua_concat(L, 2);
    return lua_error(L);
}

void qh_task_may_park(lua_State *L, const char *what)
{
    qh_vm *vm = qh_vm_of(L);
    qh_task_check(L);
    if (!vm->running || !vm->opts.loop) fail_at_app(L, "cannot wait here", what);
    if (vm->running->limits.is_pure) fail_at_app(L, "cannot be used while the app loads", what);
    if (!can_yield(vm, L)) fail_to_wait(L, what);
}

qh_loop *qh_task_loop(lua_State *L) { return qh_vm_of(L)->opts.loop; }

int qh_task_park(lua_State *L, const char *what, lua_KContext ctx, lua_KFunction k)
{
    qh_vm *vm = qh_vm_of(L);
    qh_task_check(L);
    if (!vm->running || !vm->opts.loop) return fail_at_app(L, "cannot wait here", what);
    if (!can_yield(vm, L)) return fail_to_wait(L, what);
    vm->yield_kind = QH_YIELD_PARK;
    return lua_yieldk(L, 0, ctx, k);
}
