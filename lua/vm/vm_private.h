/* vm_private.h - the inside of a VM, shared by the files of lua/vm only. */
#pragma once
#include "lua/vm/budget.h"
#include "lua/vm/collect.h"
#include "lua/vm/source.h"
#include "lua/vm/state.h"
#include "lua/vm/task.h"

enum {
    QH_VM_MAX_LEVELS = 220,     /* nested resumes; Lua's own C stack limit is 200 */
    QH_VM_MAX_PROTECTED = 190 /* nested pcalls of a coroutine: unwinding one costs the depth of all,
                                   and a yield starts Lua's own count anew */
};

/* Why lua_yield was called, told to the resume loops. */
typedef enum {
    QH_YIELD_SCRIPT,            /* coroutine.yield of a script: ends at its resume */
    QH_YIELD_PARK,              /* the task waits for an event: passes through to the scheduler */
    QH_YIELD_SLICE              /* the task's turn is over: passes through, goes on next turn */
} qh_yield_kind;

/* In lua_getextraspace of every coroutine; a new one starts with zero. */
typedef struct {
    uint8_t is_task;            /* the root of a task */
    uint8_t is_parked;          /* suspended by the scheduler, not by its script */
    uint16_t n_protected;       /* pcalls at work */
    uint16_t n_sorts;           /* table.sort at work: its turn may end there, but nothing may wait */
} qh_coro_mark;

/* Tasks that can run. Whose turn it is goes by request: each has its own line in both queues, so that
 * a request with a thousand children delays the others no more than one with a single task. */
typedef enum {
    QH_QUEUE_WOKEN,             /* something they waited for has come: these go first */
    QH_QUEUE_CUT_OFF,           /* their slice was over: one of them a turn */
    QH_N_QUEUES
} qh_queue_kind;

typedef struct {
    qh_task *first, *last;      /* roots that have tasks in it */
    int n_tasks;
} qh_task_queue;

struct qh_vm {
    lua_State *L;
    qh_vm_opts opts;
    char *app_dir, *lib_dir;    /* opts points to these */

    size_t used_bytes, max_bytes;
    int n_privileged;           /* depth of host sections; no limit applies inside */

    qh_task *running;           /* whose Lua code is at work; NULL: none */
    lua_State *levels[QH_VM_MAX_LEVELS]; /* its coroutines from root to innermost */
    int n_levels;
    qh_yield_kind yield_kind;

    qh_task *tasks;             /* all of them */
    int n_tasks;
    qh_task_queue queues[QH_N_QUEUES];
    bool is_turn_due;           /* run_turn has been deferred */
    qh_task *cause;             /* whose doing the present moment is: it runs, ends or is cancelled */

    qh_collector collector;
    qh_task *credited;          /* the request that what is freed between slices counts for; NULL */

    qh_str scratch;

    char **files;
    int n_files, cap_files;
    qh_source *sources;
    int n_sources;
    bool keeps_sources;
};

static inline qh_coro_mark *qh_coro_mark_of(lua_State *co)
{
    return (qh_coro_mark *)lua_getextraspace(co);
}

static inline void qh_vm_privileged_begin(qh_vm *vm) { vm->n_privileged++; }
static inline void qh_vm_privileged_end(qh_vm *vm) { vm->n_privileged--; }

/* sandbox.c: the globals. Leaves nothing on the stack. */
void qh_sandbox_open(lua_State *L);
/* Replace the table on top by a view that cannot be changed; is_deep: the plain tables in it too.
 * name: for the error message. */
void qh_freeze(lua_State *L, const char *name, bool is_deep);
/* Registry fields: the globals as the qhost library has them, and as scripts do (frozen, without
 * what only the library may call). A chunk's first upvalue is one of the two. */
#define QH_LIB_GLOBALS "qhost.lib_globals"
#define QH_APP_GLOBALS "qhost.app_globals"

/* coro.c: the coroutine library, as luaL_requiref wants it. */
int qh_coro_open(lua_State *L);
/* module.c: `require` for the library's own chunks and for the app's. */
void qh_module_open(lua_State *L);
void qh_vm_note_file(qh_vm *vm, const char *path);

/* task.c */
void qh_task_charge(qh_task *t, int64_t bytes);             /* NULL is fine */
bool qh_task_may_take(qh_task *t, size_t more);
void qh_tasks_end_all(qh_vm *vm);
int  qh_error_record(lua_State *L);                         /* a message handler */

/* Resume co from L, level by level; the one place that calls lua_resume. */
int qh_vm_resume(qh_vm *vm, lua_State *co, lua_State *from, int n_args, int *n_results);
