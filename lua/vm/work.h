/* work.h - a pure job on a worker that a task waits for: read a file, tokenize a long text.
 *
 *     struct job { qh_work work; ...data... };
 *     static int go_on(lua_State *L, int status, lua_KContext ctx) {
 *         struct job *j = (struct job *)ctx;
 *         if (!qh_work_is_done(L, &j->work)) return qh_task_park(L, "what", ctx, go_on);
 *         ...take the result...; qh_work_free(&j->work);
 *     }
 * When the task dies first, the work frees itself once its worker has let go of it.
 * Thread: the VM's, but for run. */
#pragma once
#include "lua/vm/task.h"

typedef struct qh_work qh_work;
struct qh_work {
    qh_scoped scoped;
    void (*run)(qh_work *w);        /* on a worker; touches nothing but its own data */
    void (*free)(qh_work *w);       /* all of it */
    void (*cancel)(qh_work *w);     /* nobody waits for it any more; it may be at work. NULL is fine */
    bool is_done, is_orphan;
};

/* Start it; it belongs to the running task's scope. Without workers, a loop or a task it runs
 * here. */
void qh_work_begin(lua_State *L, qh_work *w);
/* The same on workers of the caller's, in a running task. QH_AGAIN: too many jobs wait there; nothing
 * has begun. */
qh_status qh_work_begin_on(lua_State *L, qh_work *w, qh_workers *workers);
/* Raises when the task is dying; w is not to be touched then. */
bool qh_work_is_done(lua_State *L, qh_work *w);
void qh_work_free(qh_work *w);      /* done: leave the scope and free */
