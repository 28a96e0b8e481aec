/* work.c - see work.h */
#include "lua/vm/work.h"
#include "lua/vm/vm_private.h"

static void on_worker(void *arg)
{
    qh_work *w = arg;
    w->run(w);
}

static void on_done(void *arg)
{
    qh_work *w = arg;
    w->is_done = true;
    if (w->is_orphan) w->free(w);
    else qh_task_wake(w->scoped.task);
}

/* The task ended first: whoever comes last frees. */
static void on_close(qh_scoped *s)
{
    qh_work *w = (qh_work *)s;
    w->is_orphan = true;
    if (w->is_done) w->free(w);
    else if (w->cancel) w->cancel(w);
}

void qh_work_begin(lua_State *L, qh_work *w)
{
    qh_vm *vm = qh_vm_of(L);
    w->scoped.close = on_close;
    if (vm->running) qh_scope_add(vm->running, &w->scoped);
    if (vm->running && vm->opts.workers && vm->opts.loop &&
        !qh_workers_submit(vm->opts.workers, (qh_job){on_worker, on_done, w}))
        return;
    w->run(w);
    w->is_done = true;
}

qh_status qh_work_begin_on(lua_State *L, qh_work *w, qh_workers *workers)
{
    qh_status st = qh_workers_submit(workers, (qh_job){on_worker, on_done, w});
    if (st) return st;
    w->scoped.close = on_close;
    qh_scope_add(qh_task_running(L), &w->scoped);
    return QH_OK;
}

bool qh_work_is_done(lua_State *L, qh_work *w)
{
    qh_task_check_dying(L);                     /* a child's failure has time until the next wait */
    return w->is_done;
}

void qh_work_free(qh_work *w)
{
    qh_scope_remove(&w->scoped);
    w->free(w);
}
