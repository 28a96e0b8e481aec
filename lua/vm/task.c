/* task.c - see task.h */
#include "lua/vm/task_private.h"
#include "base/clock.h"
#include "base/mem.h"
#include <lauxlib.h>
#include <stddef.h>

enum {
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

/* ---- the body: the task's function under a handler that keeps the place of an error ---- */

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
    if (!t || !vm->opts.loop) qh_task_fail_at_app(L, "cannot start a task here", what);
    if (t->root->limits.is_pure) qh_task_fail_at_app(L, "cannot be used while the app loads", what);
    if (t->root->n_tasks >= MAX_TASKS) qh_task_fail_at_app(L, "has too many tasks at work already", what);
    if (t->depth >= MAX_DEPTH) qh_task_fail_at_app(L, "is nested too deeply in tasks", what);
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

/* ---- the end ---- */

/* Leave the results or the record of the error on top of the task's stack. Privileged. */
static void keep_outcome(qh_task *t, int status, int n_results)
{
    t->end = QH_TASK_OK;
    t->n_results = n_results;
    if (status || t->has_failed) t->end = t->dying ? t->dying : QH_TASK_FAILED;
    if (status) {                               /* not even the handler could run */
        lua_resetthread(t->L);
        lua_settop(t->L, 0);
        qh_record_push_plain(t->L, qh_task_reason(t));
    } else if (t->end && !qh_record_is(t->L, -1)) { /* no memory for one, or an error in the handler */
        const char *text =
            lua_type(t->L, -1) == LUA_TSTRING ? lua_tostring(t->L, -1) : "error in error handling";
        qh_record_push_plain(t->L, t->dying ? qh_task_reason(t) : text);
    } else if (!t->end && t->failure_ref != LUA_NOREF) { /* a child failed, and nobody has heard */
        lua_checkstack(t->L, 4);
        qh_task_push_failure(t->L, t);
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
    qh_task_die(root, t->end);
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
    qh_queue_leave(t);
    qh_waiters_leave(t);
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
    qh_queue_join(t, kind);
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
    if (r->held_bytes > r->limits.heap_bytes / 16 * 15) qh_task_die(t, QH_TASK_MEMORY);
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
    if (b && limit_us && t->meter->cpu_us >= limit_us) qh_task_die(t, QH_TASK_CPU);     /* in short slices */
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
    if (b) qh_budget_begin(b, t->L, t->root->limits.slice_us, qh_task_overrun);
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
        qh_waiters_leave(t);
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
    for (qh_task *t; n-- && (t = qh_queue_take(vm, QH_QUEUE_WOKEN));) {
        run_slice(t);
        if (qh_now_us() >= until_us) break;
    }
    qh_task *spinner = qh_queue_take(vm, QH_QUEUE_CUT_OFF);
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
        qh_waiters_leave(t);
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
    qh_task_die(t, QH_TASK_CANCELLED);
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
        for (qh_task *t; (t = qh_queue_take(vm, QH_QUEUE_WOKEN)) ||
                         (t = qh_queue_take(vm, QH_QUEUE_CUT_OFF));)
            run_slice(t);
    }
    for (qh_task *t; (t = first_not_ending(vm));) finish(t, LUA_ERRRUN, 0);
    qh_assert(!vm->tasks);
    if (vm->is_turn_due) qh_loop_undefer(vm->opts.loop, run_turn, vm);
}
