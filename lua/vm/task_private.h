/* task_private.h - the inside of a task, shared by the files that make one up: task.c (its life),
 * queue.c (whose turn it is), dying.c (why it ends), steps.c (time in C functions and slices), park.c
 * (waiting) and failure.c (what is kept of an error). */
#pragma once
#include "lua/vm/vm_private.h"

enum { QH_TASK_GRACE_US = 10000 };  /* CPU for unwinding once a task must die */

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

/* queue.c */
void     qh_queue_join(qh_task *t, qh_queue_kind kind);
void     qh_queue_leave(qh_task *t);                /* not queued: nothing */
qh_task *qh_queue_take(qh_vm *vm, qh_queue_kind kind);      /* NULL: empty */

/* dying.c */
void        qh_task_die(qh_task *t, qh_task_end why);
const char *qh_task_reason(const qh_task *t);       /* it dies for */
/* Raise that reason. level: of the function to blame; in a hook that is the one at work. */
int         qh_task_raise(lua_State *L, qh_task *t, int level);
void        qh_task_push_failure(lua_State *L, qh_task *t); /* the record of a child's, taken off t */

/* steps.c */
void qh_task_overrun(lua_State *L);                 /* from the watchdog's hook */
bool qh_task_can_yield(const qh_vm *vm, lua_State *L);

/* park.c */
void qh_waiters_leave(qh_task *t);                  /* not among any: nothing */
int  qh_task_fail_at_app(lua_State *L, const char *why, const char *what);

/* failure.c: a record is {message, trace, value}. */
bool qh_record_is(lua_State *L, int index);
void qh_record_push_plain(lua_State *L, const char *message);       /* privileged */
