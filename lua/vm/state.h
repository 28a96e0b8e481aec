/* state.h - one Lua state that cannot hurt the process: capped memory, allow-listed globals.
 *
 * A VM runs one generation of one app (or one template, one scripted model). Scripts in it see the
 * globals of sandbox.c, frozen; modules come from module.c. Everything scripts do runs inside a
 * task (task.h), which carries the limits; the host's own work on the state is privileged: it is
 * never refused memory, so API calls outside a protected call cannot fail.
 *
 *   memory   every block is counted for the VM and, while a task runs, for that task. At a limit
 *            Lua collects once and then raises "not enough memory".
 *
 * Thread: the thread that made it. */
#pragma once
#include "base/err.h"
#include "base/str.h"
#include "base/workers.h"
#include "net/loop.h"
#include <lua.h>

typedef struct qh_vm qh_vm;
typedef struct qh_budget qh_budget;
typedef struct qh_task qh_task;

enum { QH_VM_HEAPS = 4 };       /* a VM may hold as much as so many of its requests */

typedef struct {
    size_t max_bytes;           /* of the whole VM; 0: 256 MiB */
    const char *app_dir;        /* the folder that `require` may read; NULL: none. Copied */
    const char *lib_dir; /* the qhost library on disk in place of the built-in one; NULL. Copied */
    qh_loop *loop;              /* NULL: nothing can wait; tasks run to their end */
    qh_budget *budget;          /* the watchdog of this thread; NULL: no CPU limits */
    qh_workers *workers;        /* NULL: files are read on this thread */
    void (*bind)(lua_State *L); /* makes the C bindings known (lua/bind); may be NULL */
    void *host;                 /* what bindings reach through qh_vm_host */
} qh_vm_opts;

qh_status qh_vm_new(qh_vm **out, const qh_vm_opts *opts, qh_err *err);
/* Cancels and frees its tasks, closes the state. NULL is fine. Not from inside a task. */
void      qh_vm_free(qh_vm *vm);

lua_State *qh_vm_lua(qh_vm *vm);        /* the main state; privileged use only */
qh_vm     *qh_vm_of(lua_State *L);      /* of any coroutine of the VM */
void      *qh_vm_host(lua_State *L);
size_t     qh_vm_used_bytes(const qh_vm *vm);
int        qh_vm_n_tasks(const qh_vm *vm);

/* A cleared buffer of the VM, for a binding that builds text and must not leak it when Lua raises.
 * Nobody keeps it across a call that may use it too. */
qh_str    *qh_vm_scratch(lua_State *L);

/* Files that were read, or looked for, on behalf of the app: what a reload watches. */
int         qh_vm_n_files(const qh_vm *vm);
const char *qh_vm_file(const qh_vm *vm, int i);
