/* task.h - a coroutine with limits and a scope: one for each request, load or timer, and one for
 * each child that these start.
 *
 *   new -> READY -> RUNNING -> PARKED (an operation waits) -> READY ... -> DONE
 *                      \-> READY again at the end of a slice
 *
 * Whatever a task starts (a generation, a timer, a child) it registers in its scope; when the
 * task ends, or its client leaves, the scope is closed, newest first. A cancelled task is
 * resumed with an error that pcall does not swallow, so that its <close> variables unwind; it
 * can wait for nothing any more. Running out of CPU or memory ends a task the same way.
 *
 * A task may start children; they belong to its scope and to its request: heap, the number of tasks
 * and the turn among requests are the request's. It ends when they have all ended. CPU is counted
 * from the last wait for the outside: a child begins on its parent's count, and a task that is woken
 * by another one of its request goes on with the count of that one.
 *
 * Waiting, in a binding:
 *     static int sleep_go_on(lua_State *L, int status, lua_KContext ctx) {
 *         qh_task_check(L);                        raises when the task is dying
 *         if (!is_ready(ctx)) return qh_task_park(L, "qh.sleep", ctx, sleep_go_on);
 *         return 0;
 *     }
 * and whoever makes it ready calls qh_task_wake. Wakes may be spurious: look again.
 * Thread: the VM's. */
#pragma once
#include "lua/vm/state.h"

typedef struct {
    int64_t cpu_us;             /* between two waits; 0: no limit */
    int64_t slice_us;           /* before others get their turn */
    int64_t call_us;            /* in a C function that cannot be left (table.sort); 0: no limit */
    int64_t heap_bytes;         /* net of what it allocates; 0: no limit */
    bool is_pure;               /* it may not wait for the outside: an app that loads */
} qh_task_limits;
extern const qh_task_limits qh_task_limits_default;     /* 100 ms, 2 ms, 25 ms, 64 MiB */

typedef enum {
    QH_TASK_OK,
    QH_TASK_FAILED,             /* error of the script; it is on the stack given to on_done */
    QH_TASK_CANCELLED,
    QH_TASK_CPU,                /* ran longer than cpu_us without waiting */
    QH_TASK_MEMORY
} qh_task_end;

/* Something to undo when the task ends. close must not call Lua; it is unregistered by then. What
 * waits keeps no task but finds it in here: it may be another one than at the beginning. */
typedef struct qh_scoped {
    void (*close)(struct qh_scoped *s);
    qh_task *task;              /* NULL: not registered */
    bool is_handed_up;          /* when the task returns, its parent gets it: scripts may hold it */
    struct qh_scoped *prev, *next;
} qh_scoped;

typedef struct {
    /* L: the task's coroutine. OK: its n results are on top. Otherwise the error on top is a
     * table {message = string, trace = message and calls, value = what was raised}; without
     * memory for that, message only. Privileged; must not raise. */
    void (*on_done)(void *user, qh_task *t, qh_task_end end, lua_State *L, int n);
} qh_task_ops;

/* Make a task that will call a function: it and its n_args are on top of the main state's stack,
 * as for lua_call, and are popped. It runs at qh_task_start. Privileged. */
qh_task *qh_task_new(qh_vm *vm, int n_args, const qh_task_limits *limits, const qh_task_ops *ops,
                     void *user);
/* Run it now, until it waits, its slice ends or it is done; the task may be gone on return. */
void     qh_task_start(qh_task *t);
/* In a VM without a loop: run to the end; to wait is an error there. */
void     qh_task_run(qh_task *t);
/* A child of the running task, from its function and n_args on top of L; they are popped. It runs
 * when it is started or, cancelled before, never. Raises nothing. */
qh_task *qh_task_new_child(lua_State *L, int n_args, const qh_task_ops *ops, void *user);
/* Raises when the running task may start none: call it before qh_task_new_child. */
void     qh_task_may_start(lua_State *L, const char *what);
/* From on_done of a child that failed, L as given there: its siblings are cancelled, and its error
 * is raised in the parent, where that waits or will wait, or as its own when it waits no more. */
void     qh_task_fail_parent(qh_task *t, lua_State *L);
bool     qh_tasks_are_kin(const qh_task *a, const qh_task *b);     /* of one request; NULL: no */
void     qh_task_wake(qh_task *t);      /* parked: run it in the next turn; else nothing */
void     qh_task_cancel(qh_task *t);    /* closes its scope now; it unwinds in the next turn */
bool     qh_task_is_dying(const qh_task *t);
void    *qh_task_user(const qh_task *t);
int64_t  qh_task_lua_us(const qh_task *t);         /* CPU used so far, all slices */

/* Other limits for the whole request that t belongs to, from its next slice on; 0: as it was. The VM's
 * own share grows with heap_bytes. */
void     qh_task_set_budget(qh_task *t, int64_t cpu_us, int64_t slice_us, int64_t heap_bytes);

qh_task *qh_task_running(lua_State *L);            /* NULL: host code */
void     qh_scope_add(qh_task *t, qh_scoped *s);
void     qh_scope_remove(qh_scoped *s);            /* not registered: nothing */

/* Tasks that wait for the same thing. A zeroed one is empty. Whoever is woken, for whatever reason,
 * has left it; wake all before it goes away. */
typedef struct {
    qh_task *first, *last;
} qh_waiters;
void     qh_waiters_wake_one(qh_waiters *w);       /* the one that waits longest */
void     qh_waiters_wake_all(qh_waiters *w);
/* qh_task_park, in line. */
int      qh_task_wait(lua_State *L, qh_waiters *w, const char *what, lua_KContext ctx,
                      lua_KFunction k);
bool     qh_task_can_wait(lua_State *L);           /* whether qh_task_may_park would not raise */

/* Raises what qh_task_park would raise: call it before an operation begins that park will wait
 * for. */
void     qh_task_may_park(lua_State *L, const char *what);
qh_loop *qh_task_loop(lua_State *L);               /* of the VM; NULL: nothing can wait */
/* Suspend the running task until qh_task_wake; then k runs. Raises an error that names `what` and
 * the place when a C function in between cannot be suspended, or when nothing can wait here. */
int      qh_task_park(lua_State *L, const char *what, lua_KContext ctx, lua_KFunction k);
/* C functions that loop count steps: no hook fires inside them. One step is some nanoseconds of
 * work. What uses up its time of CPU without a pause raises "<what> takes too long"; when the
 * task's own budget is spent it dies. Without a watchdog nothing is limited.
 *     qh_steps s = qh_steps_begin("string.find");  ...  qh_steps_take(L, &s, n); */
typedef struct {
    const char *what;
    int64_t limit_us;           /* 0: the task's call_us */
    int64_t end_us;             /* of qh_budget_used; 0: the clock was not looked at yet */
    int64_t used_us;            /* of the slice, at the last look */
    int left;                   /* until the next */
} qh_steps;
enum { QH_STEPS_A_LOOK = 4096 };
static inline qh_steps qh_steps_begin(const char *what)
{
    return (qh_steps){what, 0, 0, 0, QH_STEPS_A_LOOK};
}
void     qh_steps_look(lua_State *L, qh_steps *s);
bool     qh_steps_are_over(lua_State *L, qh_steps *s);      /* the same without raising */
static inline void qh_steps_take(lua_State *L, qh_steps *s, size_t n)
{
    if ((size_t)s->left <= n) qh_steps_look(L, s);
    else s->left -= (int)n;
}

/* At a point where it can be left and gone on with by k: whether its turn is over, and it may
 * give it up. */
bool     qh_steps_want_pause(lua_State *L, const qh_steps *s);
bool     qh_task_may_pause(lua_State *L);            /* whether it can be left here at all */
int      qh_task_pause(lua_State *L, lua_KContext ctx, lua_KFunction k); /* k calls qh_task_check */

/* Raises when the running task is dying, or when a child of it has failed. */
void     qh_task_check(lua_State *L);
qh_task *qh_task_root(qh_task *t);                 /* of its request */
/* Count memory outside Lua that is held for it, or, negative, no longer. false: it is over its limit. */
bool     qh_task_hold(qh_task *t, int64_t bytes);
void     qh_task_check_dying(lua_State *L);        /* only the former */
bool     qh_task_must_raise(lua_State *L);         /* whether qh_task_check would raise */
int      qh_task_rethrow(lua_State *L);    /* dying: raise the error on top once more; else 0 */
void     qh_task_out_of_memory(lua_State *L);      /* the running task hit its limit: it dies */

/* Push message (or NULL) and the calls that led here, as luaL_traceback does; but that walks all open
 * calls some forty times to find the outermost, seconds for an endless recursion, so a stack of
 * thousands is shown by its innermost calls alone. */
void qh_push_trace(lua_State *L, const char *message);
