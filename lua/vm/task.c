/* task.c - see task.h */
#include "lua/vm/vm_private.h"
#include "lua/vm/module.h"
#include "base/clock.h"
#include "base/mem.h"
#include <lauxlib.h>
#include <stddef.h>
#include <string.h>

enum {
    GRACE_US = 10000,   /* CPU for unwinding once a task must die */
    TURN_US = 4000,     /* tasks run one after another for so long before the loop looks around */
    DEEP_CALLS = 10000, /* a recursion without an end looks like this when memory is gone */
    MAX_TASKS = 10000,  /* alive in a request */
    MAX_DEPTH = 100,    /* of tasks started within tasks */
    OVER_BYTES = 1 << 20, /* a larger block is refused at the limit */
    COLLECT_US = 1500,  /* on behalf of a task over its limit, in place of a slice */
    END_TRIES = 100     /* turns that an ending VM gives a task to unwind */
};

const qh_task_limits qh_task_limits_default = {
    .cpu_us = 100000, .slice_us = 2000, .call_us = 25000, .heap_bytes = 64 << 20};

typedef enum { READY, RUNNING, PARKED, ENDING } task_state;

/* CPU used since the last wait for the outside. A task that another one of its request starts or
 * wakes goes on with the meter of that one: neither children nor queues between them give a loop
 * that never waits more than one budget. */
typedef struct {
    int64_t cpu_us;
    int n_refs;
} meter;

typedef struct {
    qh_task *first, *last;      /* linked by next_ready */
} line;

struct qh_task {
    qh_vm *vm;
    qh_task *root;              /* the request: itself, or the oldest ancestor */
    qh_task *parent;            /* NULL: a root */
    qh_scoped as_child;         /* in the parent's scope */
    int depth;                  /* below the root */
    int n_children;             /* alive */
    int failure_ref;            /* record of a child's error that is still to be raised here */
    lua_State *L;
    int ref;                    /* anchors L in the registry */
    int n_args;                 /* for the first resume: the function and its arguments */
    task_state state;
    qh_task_end end;            /* ENDING only, as are these two */
    int n_results;
    bool is_queued;
    qh_queue_kind queue;        /* of is_queued */
    bool is_woken;              /* between a park and the moment its slice has ended */
    bool has_failed;            /* its function raised; the record is its only result */
    bool is_deep;               /* calls were nested deep when memory was refused */
    int64_t stuck_since_us;     /* of cpu_us: its slice is over where it cannot end; 0: no */
    bool is_stuck;              /* it ran out of CPU there */
    bool is_raised;             /* the reason it dies for has been raised */
    qh_task_end dying;          /* QH_TASK_OK: it lives */
    meter *meter;
    int64_t lua_us;             /* ever; of a root: of its whole request */
    int64_t grace_end_us;       /* of the meter; dying only */
    const qh_task_ops *ops;
    void *user;
    qh_scoped *scope;           /* newest first */
    qh_task *prev, *next, *next_ready;
    qh_waiters *waiters;        /* it stands among these; NULL: none */
    qh_task *prev_waiter, *next_waiter;

    /* of a root, for all of its request */
    qh_task_limits limits;
    int64_t held_bytes;
    bool is_over;               /* its heap_bytes: it waits until collector.n_cycles is over_until */
    unsigned over_until;
    int n_tasks;                /* alive */
    struct {
        line tasks;
        qh_task *next_root;
    } ready[QH_N_QUEUES];
};

/* ---- meters ---- */

static void meter_unref(meter *m)
{
    if (!--m->n_refs) qh_free(m);
}

static meter *meter_new(void)
{
    meter *m = qh_new0(meter);
    m->n_refs = 1;
    return m;
}

static void meter_share(qh_task *t, meter *m)
{
    m->n_refs++;
    meter_unref(t->meter);
    t->meter = m;
}

/* Its wait is over. */
static void meter_go_on(qh_task *t)
{
    qh_task *cause = t->vm->cause;
    if (cause && cause != t && cause->root == t->root) {
        meter_share(t, cause->meter);
    } else if (t->meter->n_refs == 1) {
        t->meter->cpu_us = 0;
    } else {
        meter_unref(t->meter);
        t->meter = meter_new();
    }
}

/* ---- memory ---- */

void qh_task_charge(qh_task *t, int64_t bytes)
{
    if (!t) return;
    t = t->root;
    t->held_bytes += bytes;
    if (t->held_bytes < 0) t->held_bytes = 0;   /* it collects what others left */
}

/* Memory that is refused makes Lua collect everything at once. A little over its limit a task goes
 * on to its next instruction, and waits there while others get their turns. */
static bool may_go_over(qh_task *t, size_t more)
{
    qh_task *r = t->root;
    int64_t limit = r->limits.heap_bytes;
    if (!t->vm->collector.is_on || !t->vm->opts.budget || t->dying) return false;
    if (more > OVER_BYTES || r->held_bytes + (int64_t)more > limit + limit / 4) return false;
    if (r->is_over) return true;
    r->is_over = true;
    r->over_until = qh_collect_target(t->vm);
    qh_budget_arm(t->vm->opts.budget);
    return true;
}

bool qh_task_may_take(qh_task *t, size_t more)
{
    lua_Debug ar;
    if (!t || !t->root->limits.heap_bytes) return true;
    const qh_task *r = t->root;
    if (more <= (size_t)r->limits.heap_bytes &&
        r->held_bytes <= r->limits.heap_bytes - (int64_t)more)
        return true;
    if (may_go_over(t, more)) return true;
    t->is_deep = lua_getstack(t->vm->levels[t->vm->n_levels - 1], DEEP_CALLS, &ar);
    return false;
}

bool qh_task_hold(qh_task *t, int64_t bytes)
{
    const qh_task *r = t->root;
    if (bytes > 0 && r->limits.heap_bytes && r->held_bytes > r->limits.heap_bytes - bytes) return false;
    qh_task_charge(t, bytes);
    return true;
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

/* What a task that returned leaves open and others may hold goes to its parent. */
static void hand_scope_up(qh_task *t)
{
    for (qh_scoped *s = t->scope, *next; s; s = next) {
        next = s->next;
        if (!s->is_handed_up) continue;
        qh_scope_remove(s);
        qh_scope_add(t->parent, s);
    }
}

/* ---- waiting in line ---- */

static void leave_waiters(qh_task *t)
{
    qh_waiters *w = t->waiters;
    if (!w) return;
    if (t->prev_waiter) t->prev_waiter->next_waiter = t->next_waiter;
    else w->first = t->next_waiter;
    if (t->next_waiter) t->next_waiter->prev_waiter = t->prev_waiter;
    else w->last = t->prev_waiter;
    t->waiters = NULL;
    t->prev_waiter = t->next_waiter = NULL;
}

static void join_waiters(qh_task *t, qh_waiters *w)
{
    leave_waiters(t);
    t->waiters = w;
    t->prev_waiter = w->last;
    if (w->last) w->last->next_waiter = t;
    else w->first = t;
    w->last = t;
}

void qh_waiters_wake_one(qh_waiters *w)
{
    if (w->first) qh_task_wake(w->first);
}

void qh_waiters_wake_all(qh_waiters *w)
{
    while (w->first) qh_task_wake(w->first);
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
    t->grace_end_us = t->meter->cpu_us + GRACE_US;
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

static void check_dying(lua_State *L)
{
    qh_task *t = qh_task_running(L);
    if (t && t->dying) raise(L, t, 1);
}

/* The record of a child's failure, taken off t. */
static void push_failure(lua_State *L, qh_task *t)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->failure_ref);
    luaL_unref(L, LUA_REGISTRYINDEX, t->failure_ref);
    t->failure_ref = LUA_NOREF;
}

void qh_task_check(lua_State *L)
{
    check_dying(L);
    qh_task *t = qh_task_running(L);
    if (!t || t->failure_ref == LUA_NOREF) return;
    push_failure(L, t);
    lua_getfield(L, -1, "value");
    lua_error(L);
}

void qh_task_check_dying(lua_State *L) { check_dying(L); }

bool qh_task_must_raise(lua_State *L)
{
    qh_task *t = qh_task_running(L);
    return t && (t->dying || t->failure_ref != LUA_NOREF);
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

/* The turn of others may come inside a comparison of table.sort; a wait may not. */
static bool can_wait(const qh_vm *vm, lua_State *L)
{
    for (int i = 0; i < vm->n_levels; i++)
        if (qh_coro_mark_of(vm->levels[i])->n_sorts) return false;
    return can_yield(vm, L);
}

static void overrun(lua_State *L)
{
    qh_vm *vm = qh_vm_of(L);
    qh_task *t = vm->running;
    const qh_task_limits *limits = &t->root->limits;
    int64_t used = t->meter->cpu_us + qh_budget_used(vm->opts.budget);
    if (t->dying && !t->is_raised) {
        raise(L, t, 0);
    } else if (t->dying && used >= t->grace_end_us) {
        qh_budget_hold(vm->opts.budget);        /* no handler of an error may go on from here */
        raise(L, t, 0);
    } else if (!t->dying && limits->cpu_us && used >= limits->cpu_us) {
        die(t, QH_TASK_CPU);
        t->grace_end_us = used + GRACE_US;
        raise(L, t, 0);
    } else if (can_yield(vm, L)) {
        vm->yield_kind = QH_YIELD_SLICE;
        lua_yield(L, 0);
    } else if (!t->stuck_since_us) {
        t->stuck_since_us = used;
    } else if (!t->dying && limits->call_us && vm->opts.loop &&
               used - t->stuck_since_us >= limits->call_us) {
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
        die(t, QH_TASK_CPU);
        t->grace_end_us = t->meter->cpu_us + used + GRACE_US;
        raise(L, t, 1);
    }
    if (used >= s->end_us) luaL_error(L, "%s takes too long", s->what);
}

bool qh_steps_want_pause(lua_State *L, const qh_steps *s)
{
    if (!s->used_us) return false;
    qh_vm *vm = qh_vm_of(L);
    return vm->running && s->used_us >= vm->running->root->limits.slice_us && can_yield(vm, L);
}

bool qh_task_may_pause(lua_State *L) { return qh_vm_of(L)->running && can_yield(qh_vm_of(L), L); }

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

enum { SHOWN_CALLS = 20, LISTED_CALLS = 2000 };

void qh_push_trace(lua_State *L, const char *message)
{
    lua_Debug ar;
    if (!lua_getstack(L, LISTED_CALLS, &ar)) {
        luaL_traceback(L, L, message, 1);
        return;
    }
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    luaL_addstring(&b, message ? message : "");
    luaL_addstring(&b, message ? "\nstack traceback:" : "stack traceback:");
    for (int level = 1; level <= SHOWN_CALLS && lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        lua_pushfstring(L, "\n\t%s:%d:", ar.short_src, ar.currentline);
        luaL_addvalue(&b);
    }
    luaL_addstring(&b, "\n\t...\t(more calls than are counted)");
    luaL_pushresult(&b);
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
    qh_push_trace(L, lua_tostring(L, -2));
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

static int fail_at_app(lua_State *L, const char *why, const char *what)
{
    qh_push_app_line(L);
    lua_pushfstring(L, "%s %s", what, why);
    lua_concat(L, 2);
    return lua_error(L);
}

static qh_task *task_new(qh_vm *vm, int n_args, const qh_task_ops *ops, void *user)
{
    qh_task *t = qh_new0(qh_task);
    t->vm = vm;
    t->root = t;
    t->ops = ops;
    t->user = user;
    t->failure_ref = LUA_NOREF;
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
    return t;
}

qh_task *qh_task_new(qh_vm *vm, int n_args, const qh_task_limits *limits, const qh_task_ops *ops,
                     void *user)
{
    qh_vm_privileged_begin(vm);
    qh_task *t = task_new(vm, n_args, ops, user);
    t->limits = *limits;
    t->n_tasks = 1;
    t->meter = meter_new();
    qh_vm_privileged_end(vm);
    return t;
}

static void close_child(qh_scoped *s)
{
    qh_task_cancel((qh_task *)((char *)s - offsetof(qh_task, as_child)));
}

void qh_task_may_start(lua_State *L, const char *what)
{
    qh_vm *vm = qh_vm_of(L);
    qh_task *t = vm->running;
    qh_task_check(L);
    if (!t || !vm->opts.loop) fail_at_app(L, "cannot start a task here", what);
    if (t->root->limits.is_pure) fail_at_app(L, "cannot be used while the app loads", what);
    if (t->root->n_tasks >= MAX_TASKS) fail_at_app(L, "has too many tasks at work already", what);
    if (t->depth >= MAX_DEPTH) fail_at_app(L, "is nested too deeply in tasks", what);
}

qh_task *qh_task_new_child(lua_State *L, int n_args, const qh_task_ops *ops, void *user)
{
    qh_vm *vm = qh_vm_of(L);
    qh_task *parent = vm->running;
    qh_vm_privileged_begin(vm);
    if (L != vm->L) {
        lua_checkstack(vm->L, n_args + 4);
        lua_xmove(L, vm->L, n_args + 1);
    }
    qh_task *t = task_new(vm, n_args, ops, user);
    t->root = parent->root;
    t->parent = parent;
    t->depth = parent->depth + 1;
    t->meter = parent->meter;
    t->meter->n_refs++;
    parent->n_children++;
    parent->root->n_tasks++;
    t->as_child.close = close_child;
    qh_scope_add(parent, &t->as_child);
    qh_vm_privileged_end(vm);
    return t;
}

/* ---- queues: a request's own line in each, and the requests in turn ---- */

static void leave_queue(qh_task *t)
{
    if (!t->is_queued) return;
    qh_task_queue *q = &t->vm->queues[t->queue];
    qh_task *root = t->root, *before = NULL;
    line *l = &root->ready[t->queue].tasks;
    t->is_queued = false;
    q->n_tasks--;
    qh_task **at = &l->first;
    for (; *at != t; at = &(*at)->next_ready) before = *at;
    *at = t->next_ready;
    if (l->last == t) l->last = before;
    if (l->first) return;
    before = NULL;                              /* its request has none left: out of the round */
    for (at = &q->first; *at != root; at = &(*at)->ready[t->queue].next_root) before = *at;
    *at = root->ready[t->queue].next_root;
    if (q->last == root) q->last = before;
}

static void join_round(qh_task *root, qh_queue_kind kind)
{
    qh_task_queue *q = &root->vm->queues[kind];
    root->ready[kind].next_root = NULL;
    if (q->last) q->last->ready[kind].next_root = root;
    else q->first = root;
    q->last = root;
}

static void join_queue(qh_task *t, qh_queue_kind kind)
{
    line *l = &t->root->ready[kind].tasks;
    t->is_queued = true;
    t->queue = kind;
    t->next_ready = NULL;
    t->vm->queues[kind].n_tasks++;
    if (l->last) {
        l->last->next_ready = t;
    } else {
        l->first = t;
        join_round(t->root, kind);
    }
    l->last = t;
}

static qh_task *take_first(qh_vm *vm, qh_queue_kind kind)
{
    qh_task_queue *q = &vm->queues[kind];
    qh_task *root = q->first;
    if (!root) return NULL;
    line *l = &root->ready[kind].tasks;
    qh_task *t = l->first;
    t->is_queued = false;
    q->n_tasks--;
    l->first = t->next_ready;
    if (!l->first) l->last = NULL;
    q->first = root->ready[kind].next_root;
    if (!q->first) q->last = NULL;
    if (l->first) join_round(root, kind);
    return t;
}

/* ---- the end ---- */

static void push_plain_record(lua_State *L, const char *message)
{
    lua_createtable(L, 0, 2);
    lua_pushstring(L, message);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "value");
    lua_setfield(L, -2, "message");
    mark_record(L);
}

/* Leave the results or the record of the error on top of the task's stack. Privileged. */
static void keep_outcome(qh_task *t, int status, int n_results)
{
    t->end = QH_TASK_OK;
    t->n_results = n_results;
    if (status || t->has_failed) t->end = t->dying ? t->dying : QH_TASK_FAILED;
    if (status) {                               /* not even the handler could run */
        lua_resetthread(t->L);
        lua_settop(t->L, 0);
        push_plain_record(t->L, reason_of(t));
    } else if (t->end && !is_record(t->L, -1)) { /* no memory for one, or an error in the handler */
        const char *text =
            lua_type(t->L, -1) == LUA_TSTRING ? lua_tostring(t->L, -1) : "error in error handling";
        push_plain_record(t->L, t->dying ? reason_of(t) : text);
    } else if (!t->end && t->failure_ref != LUA_NOREF) { /* a child failed, and nobody has heard */
        lua_checkstack(t->L, 4);
        push_failure(t->L, t);
        t->end = QH_TASK_FAILED;
    }
    if (t->end) t->n_results = 1;
}

static void kill_request(qh_task *t)
{
    qh_task *root = t->root;
    if (root->dying || root->state == ENDING) return;
    root->is_deep = t->is_deep;
    root->is_stuck = t->is_stuck;
    die(root, t->end);
    qh_task_wake(root);
    close_scope(root);
}

/* It and all of its children have ended. */
static void conclude(qh_task *t)
{
    qh_vm *vm = t->vm;
    qh_task *parent = t->parent;
    qh_scope_remove(&t->as_child);
    qh_vm_privileged_begin(vm);
    t->ops->on_done(t->user, t, t->end, t->L, t->n_results);
    if (t->failure_ref != LUA_NOREF) luaL_unref(vm->L, LUA_REGISTRYINDEX, t->failure_ref);
    luaL_unref(vm->L, LUA_REGISTRYINDEX, t->ref);
    qh_vm_privileged_end(vm);
    if (parent && (t->end == QH_TASK_CPU || t->end == QH_TASK_MEMORY)) kill_request(t);
    if (t->prev) t->prev->next = t->next;
    else vm->tasks = t->next;
    if (t->next) t->next->prev = t->prev;
    vm->n_tasks--;
    t->root->n_tasks--;
    if (vm->cause == t) vm->cause = NULL;
    if (vm->credited == t) vm->credited = NULL;
    meter_unref(t->meter);
    qh_free(t);
    if (parent && !--parent->n_children && parent->state == ENDING) conclude(parent);
}

static void finish(qh_task *t, int status, int n_results)
{
    leave_queue(t);
    leave_waiters(t);
    qh_vm_privileged_begin(t->vm);
    keep_outcome(t, status, n_results);
    qh_vm_privileged_end(t->vm);
    t->state = ENDING;
    if (!t->end && t->parent && !t->parent->dying && t->parent->state != ENDING) hand_scope_up(t);
    close_scope(t);
    if (!t->n_children) conclude(t);
}

static void run_turn(void *arg);

static void make_ready(qh_task *t, qh_queue_kind kind)
{
    qh_vm *vm = t->vm;
    t->state = READY;
    if (t->is_queued) return;
    join_queue(t, kind);
    if (!vm->opts.loop || vm->is_turn_due) return;
    vm->is_turn_due = true;
    qh_loop_defer(vm->opts.loop, run_turn, vm);
}

/* For a task over its limit: true: it waits for the collector. It dies when what is left is still
 * too much, or so little less that it would be back at once. */
static bool waits_for_collector(qh_task *t)
{
    qh_vm *vm = t->vm;
    qh_task *r = t->root;
    if (!r->is_over || t->dying || vm->running) return false;
    vm->credited = r;
    if (vm->collector.n_cycles != r->over_until) qh_collect_for(vm, COLLECT_US);
    if ((int)(vm->collector.n_cycles - r->over_until) < 0) return true;
    r->is_over = false;
    if (r->held_bytes > (int64_t)vm->used_bytes) r->held_bytes = (int64_t)vm->used_bytes;
    if (r->held_bytes > r->limits.heap_bytes / 16 * 15) die(t, QH_TASK_MEMORY);
    return false;
}

/* One slice. The task may be gone on return. */
static void run_slice(qh_task *t)
{
    qh_vm *vm = t->vm;
    qh_budget *b = vm->opts.budget;
    if (waits_for_collector(t)) {
        make_ready(t, QH_QUEUE_CUT_OFF);
        return;
    }
    int64_t limit_us = t->root->limits.cpu_us;
    if (b && limit_us && t->meter->cpu_us >= limit_us) die(t, QH_TASK_CPU);     /* in short slices */
    if (t->dying && t->n_args) {                /* before it began */
        finish(t, LUA_ERRRUN, 0);
        return;
    }
    int n_args = t->n_args, n_results = 0;
    qh_task *cause = vm->cause;
    t->n_args = 0;
    t->state = RUNNING;
    t->is_woken = false;
    t->stuck_since_us = 0;
    vm->running = vm->cause = t;
    vm->credited = t->root;
    if (b) qh_budget_begin(b, t->L, t->root->limits.slice_us, overrun);
    if (b && t->dying && !t->is_raised) qh_budget_arm(b);   /* it was cut off in plain Lua code */
    int64_t start_us = b ? 0 : qh_now_us();
    int n_privileged = vm->n_privileged;        /* of the host code that called us */
    vm->n_privileged = 0;
    int status = qh_vm_resume(vm, t->L, NULL, n_args, &n_results);
    vm->n_privileged = n_privileged;
    int64_t used = b ? qh_budget_end(b) : qh_now_us() - start_us;
    vm->running = NULL;
    t->root->lua_us += used;
    if (t != t->root) t->lua_us += used;
    t->meter->cpu_us += used;
    if (status != LUA_YIELD) {
        finish(t, status, n_results);
    } else if (vm->yield_kind == QH_YIELD_SLICE) {
        make_ready(t, QH_QUEUE_CUT_OFF);
    } else if (t->is_woken || t->dying) {
        leave_waiters(t);
        make_ready(t, QH_QUEUE_WOKEN);
    } else {
        t->state = PARKED;
    }
    vm->cause = cause;
    qh_collect_some(vm);
}

/* Who waited and was woken runs first, the requests in turn; then one of those who were cut off. So
 * a request that spins delays the others by one slice, however many spin. */
static void run_turn(void *arg)
{
    qh_vm *vm = arg;
    vm->is_turn_due = false;
    int64_t until_us = qh_now_us() + TURN_US;
    int n = vm->queues[QH_QUEUE_WOKEN].n_tasks; /* those woken from now on wait for the next turn */
    for (qh_task *t; n-- && (t = take_first(vm, QH_QUEUE_WOKEN));) {
        run_slice(t);
        if (qh_now_us() >= until_us) break;
    }
    qh_task *spinner = take_first(vm, QH_QUEUE_CUT_OFF);
    if (spinner) run_slice(spinner);
    bool is_more = vm->queues[QH_QUEUE_WOKEN].n_tasks || vm->queues[QH_QUEUE_CUT_OFF].n_tasks;
    if (!is_more && vm->collector.is_at_work) {
        qh_collect_some(vm);
        is_more = vm->collector.is_at_work;
    }
    if (is_more && !vm->is_turn_due) {
        vm->is_turn_due = true;
        qh_loop_defer(vm->opts.loop, run_turn, vm);
    }
}

void qh_task_start(qh_task *t)
{
    if (t->vm->running) make_ready(t, QH_QUEUE_WOKEN);  /* slices do not nest */
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
    if (t->state == PARKED) {
        leave_waiters(t);
        meter_go_on(t);
        make_ready(t, QH_QUEUE_WOKEN);
    } else if (t->state == RUNNING) {
        t->is_woken = true;
    }
}

void qh_task_cancel(qh_task *t)
{
    if (t->state == ENDING || t->dying) return;
    qh_vm *vm = t->vm;
    qh_task *cause = vm->cause;
    qh_task_wake(t);
    die(t, QH_TASK_CANCELLED);
    if (!cause) vm->cause = t;                  /* its children unwind on its meter */
    close_scope(t);
    vm->cause = cause;
}

void qh_task_fail_parent(qh_task *t, lua_State *L)
{
    qh_task *parent = t->parent;
    if (parent->dying || parent->state == ENDING || parent->failure_ref != LUA_NOREF) return;
    lua_pushvalue(L, -1);
    parent->failure_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    for (qh_scoped *s = parent->scope, *next; s; s = next) {
        next = s->next;
        if (s->close != close_child) continue;
        qh_scope_remove(s);
        s->close(s);
    }
    qh_task_wake(parent);
}

qh_task *qh_task_root(qh_task *t) { return t->root; }
bool qh_tasks_are_kin(const qh_task *a, const qh_task *b) { return a && b && a->root == b->root; }
void qh_task_set_budget(qh_task *t, int64_t cpu_us, int64_t slice_us, int64_t heap_bytes)
{
    qh_task_limits *l = &t->root->limits;
    if (cpu_us) l->cpu_us = cpu_us;
    if (slice_us) l->slice_us = slice_us;
    if (heap_bytes) l->heap_bytes = heap_bytes;
    size_t share = QH_VM_HEAPS * (size_t)l->heap_bytes;
    if (t->vm->max_bytes < share) t->vm->max_bytes = share;
}

void *qh_task_user(const qh_task *t) { return t->user; }
int64_t qh_task_lua_us(const qh_task *t)
{
    bool is_at_work = t->state == RUNNING && t->vm->opts.budget;
    return t->lua_us + (is_at_work ? qh_budget_used(t->vm->opts.budget) : 0);
}
qh_task *qh_task_running(lua_State *L) { return qh_vm_of(L)->running; }

/* Parents that wait for their children end with the last of these. */
static qh_task *first_not_ending(qh_vm *vm)
{
    qh_task *t = vm->tasks;
    while (t && t->state == ENDING) t = t->next;
    return t;
}

void qh_tasks_end_all(qh_vm *vm)
{
    for (int i = 0; vm->tasks && i < END_TRIES; i++) {
        for (qh_task *t = vm->tasks, *next; t; t = next) {
            next = t->next;
            qh_task_cancel(t);
        }
        for (qh_task *t; (t = take_first(vm, QH_QUEUE_WOKEN)) ||
                         (t = take_first(vm, QH_QUEUE_CUT_OFF));)
            run_slice(t);
    }
    for (qh_task *t; (t = first_not_ending(vm));) finish(t, LUA_ERRRUN, 0);
    qh_assert(!vm->tasks);
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
        if (lua_isyieldable(co) && !qh_coro_mark_of(co)->n_sorts) continue;
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

void qh_task_may_park(lua_State *L, const char *what)
{
    qh_vm *vm = qh_vm_of(L);
    qh_task_check(L);
    if (!vm->running || !vm->opts.loop) fail_at_app(L, "cannot wait here", what);
    if (vm->running->root->limits.is_pure) fail_at_app(L, "cannot be used while the app loads", what);
    if (!can_wait(vm, L)) fail_to_wait(L, what);
}

qh_loop *qh_task_loop(lua_State *L) { return qh_vm_of(L)->opts.loop; }

int qh_task_park(lua_State *L, const char *what, lua_KContext ctx, lua_KFunction k)
{
    qh_vm *vm = qh_vm_of(L);
    check_dying(L);
    if (!vm->running || !vm->opts.loop) return fail_at_app(L, "cannot wait here", what);
    if (!can_wait(vm, L)) return fail_to_wait(L, what);
    vm->yield_kind = QH_YIELD_PARK;
    return lua_yieldk(L, 0, ctx, k);
}

int qh_task_wait(lua_State *L, qh_waiters *w, const char *what, lua_KContext ctx, lua_KFunction k)
{
    qh_vm *vm = qh_vm_of(L);
    qh_task_may_park(L, what);
    join_waiters(vm->running, w);
    vm->yield_kind = QH_YIELD_PARK;
    return lua_yieldk(L, 0, ctx, k);
}

bool qh_task_can_wait(lua_State *L)
{
    qh_vm *vm = qh_vm_of(L);
    return vm->running && !vm->running->dying && !vm->running->root->limits.is_pure &&
           can_wait(vm, L);
}
