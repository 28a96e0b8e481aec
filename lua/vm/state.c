/* state.c - see state.h */
#include "lua/vm/vm_private.h"
#include "base/mem.h"
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_VM_BYTES = 256 << 20,
    KEEP_SCRATCH_BYTES = 256 << 10
};

/* ---- memory ---- */

/* Growth is refused, shrinking never is: Lua relies on that. When p is NULL, old says what kind of
 * object the block is for, not how large it was. */
static void *vm_alloc(void *ud, void *p, size_t old, size_t len)
{
    qh_vm *vm = ud;
    if (!p) old = 0;
    if (len == 0) {
        free(p);
        vm->used_bytes -= old;
        qh_task_charge(vm->running ? vm->running : vm->credited, -(int64_t)old);
        return NULL;
    }
    if (len > old && !vm->n_privileged) {
        size_t more = len - old;
        if (more > vm->max_bytes || vm->used_bytes > vm->max_bytes - more) return NULL;
        if (!qh_task_may_take(vm->running, more)) return NULL;
    }
    void *q = realloc(p, len);
    if (!q) return len <= old ? p : NULL;
    vm->used_bytes += len - old;
    qh_task_charge(vm->running, (int64_t)len - (int64_t)old);
    return q;
}

size_t qh_vm_used_bytes(const qh_vm *vm) { return vm->used_bytes; }

/* ---- the state ---- */

qh_vm *qh_vm_of(lua_State *L)
{
    void *ud;
    lua_getallocf(L, &ud);
    return ud;
}

void *qh_vm_host(lua_State *L) { return qh_vm_of(L)->opts.host; }
lua_State *qh_vm_lua(qh_vm *vm) { return vm->L; }
int qh_vm_n_tasks(const qh_vm *vm) { return vm->n_tasks; }

static int open_all(lua_State *L)
{
    qh_sandbox_open(L);
    qh_module_open(L);
    qh_vm *vm = qh_vm_of(L);
    if (vm->opts.bind) vm->opts.bind(L);
    return 0;
}

qh_status qh_vm_new(qh_vm **out, const qh_vm_opts *opts, qh_err *err)
{
    *out = NULL;
    qh_vm *vm = qh_new0(qh_vm);
    vm->opts = *opts;
    vm->opts.app_dir = vm->app_dir = opts->app_dir ? qh_strdup(opts->app_dir) : NULL;
    vm->opts.lib_dir = vm->lib_dir = opts->lib_dir ? qh_strdup(opts->lib_dir) : NULL;
    vm->max_bytes = opts->max_bytes ? opts->max_bytes : DEFAULT_VM_BYTES;

    qh_vm_privileged_begin(vm);
    vm->L = lua_newstate(vm_alloc, vm);
    if (!vm->L) {
        qh_vm_free(vm);
        return qh_fail(err, QH_ENOMEM, "no memory for a Lua state");
    }
    *(qh_coro_mark *)lua_getextraspace(vm->L) = (qh_coro_mark){0};
    if (vm->opts.loop) qh_collect_open(vm);
    lua_pushcfunction(vm->L, open_all);
    if (lua_pcall(vm->L, 0, 0, 0)) {
        qh_status st = qh_fail(err, QH_ESCRIPT, "the qhost library does not load: %s",
                               lua_tostring(vm->L, -1));
        qh_vm_free(vm);
        return st;
    }
    qh_vm_privileged_end(vm);
    *out = vm;
    return QH_OK;
}

void qh_vm_free(qh_vm *vm)
{
    if (!vm) return;
    qh_assert(!vm->running);
    qh_tasks_end_all(vm);
    qh_vm_privileged_begin(vm);
    if (vm->L) lua_close(vm->L);
    qh_sources_keep(vm, false);
    for (int i = 0; i < vm->n_files; i++) qh_free(vm->files[i]);
    qh_free(vm->files);
    qh_str_deinit(&vm->scratch);
    qh_free(vm->app_dir);
    qh_free(vm->lib_dir);
    qh_free(vm);
}

qh_str *qh_vm_scratch(lua_State *L)
{
    qh_str *s = &qh_vm_of(L)->scratch;
    if (s->cap > KEEP_SCRATCH_BYTES) qh_str_deinit(s);
    qh_str_clear(s);
    return s;
}

/* ---- files ---- */

int qh_vm_n_files(const qh_vm *vm) { return vm->n_files; }
const char *qh_vm_file(const qh_vm *vm, int i) { return vm->files[i]; }

void qh_vm_note_file(qh_vm *vm, const char *path)
{
    for (int i = 0; i < vm->n_files; i++)
        if (strcmp(vm->files[i], path) == 0) return;
    if (vm->n_files == vm->cap_files) {
        vm->cap_files = vm->cap_files ? vm->cap_files * 2 : 8;
        vm->files = qh_realloc(vm->files, sizeof *vm->files * (size_t)vm->cap_files);
    }
    vm->files[vm->n_files++] = qh_strdup(path);
}

/* ---- resuming ---- */

int qh_vm_resume(qh_vm *vm, lua_State *co, lua_State *from, int n_args, int *n_results)
{
    qh_budget *b = vm->opts.budget;
    qh_assert(vm->n_levels < QH_VM_MAX_LEVELS);
    vm->levels[vm->n_levels++] = co;
    qh_coro_mark_of(co)->is_parked = 0;
    if (b && from) qh_budget_switch(b, co);
    int status = lua_resume(co, from, n_args, n_results);
    if (b && from) qh_budget_switch(b, from);
    vm->n_levels--;
    if (status == LUA_YIELD && vm->yield_kind != QH_YIELD_SCRIPT)
        qh_coro_mark_of(co)->is_parked = 1;
    return status;
}
