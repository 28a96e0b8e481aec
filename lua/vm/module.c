/* module.c - see module.h */
#include "lua/vm/module.h"
#include "base/mem.h"
#include "base/str.h"
#include "lua/vm/vm_private.h"
#include "lua/vm/work.h"
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MAX_FILE_BYTES = 1 << 20,
    MAX_NAME_BYTES = 200
};

/* registry fields */
#define BINDINGS "qhost.bindings"   /* c */
#define LIB_MODULES "qhost.lib_modules"
#define APP_MODULES "qhost.app_modules"     /* name -> value, or a light userdata while it loads */
#define VIEWS "qhost.views"         /* library modules as apps see them */

/* ---- reading a file of the app, off the loop thread ---- */

typedef struct {
    qh_work work;
    char *root;                 /* the folder it must lie in; NULL: anywhere */
    char *paths[2];             /* tried in order */
    int found;                  /* index of the one that was read */
    qh_str text;
    qh_err err;
} file_read;

static void read_free(qh_work *w)
{
    file_read *r = (file_read *)w;
    qh_free(r->root);
    qh_free(r->paths[0]);
    qh_free(r->paths[1]);
    qh_str_deinit(&r->text);
    qh_free(r);
}

static bool is_below(const char *root, const char *path)
{
    char real[PATH_MAX];
    if (!realpath(path, real)) return false;
    size_t n = strlen(root);
    return strncmp(real, root, n) == 0 && (real[n] == '/' || (n && root[n - 1] == '/'));
}

static qh_status read_whole(file_read *r, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        qh_status st = errno == ENOENT || errno == ENOTDIR ? QH_ENOTFOUND : QH_EIO;
        return qh_fail(&r->err, st, "%s: %s", path, strerror(errno));
    }
    struct stat sb;
    qh_status st = QH_OK;
    if (fstat(fd, &sb) || !S_ISREG(sb.st_mode)) {
        st = qh_fail(&r->err, QH_EFORMAT, "%s: not a regular file", path);
    } else if (sb.st_size > MAX_FILE_BYTES) {
        st = qh_fail(&r->err, QH_ELIMIT, "%s: %lld bytes, a script may have %d", path,
                     (long long)sb.st_size, MAX_FILE_BYTES);
    } else if (r->root && !is_below(r->root, path)) {
        st = qh_fail(&r->err, QH_EACCES, "%s: leads out of the app's folder %s", path, r->root);
    }
    char buf[16384];
    ssize_t n = 0;
    while (!st && (n = read(fd, buf, sizeof buf)) > 0) {
        qh_str_append(&r->text, buf, (size_t)n);
        if (r->text.len > MAX_FILE_BYTES)
            st = qh_fail(&r->err, QH_ELIMIT, "%s: over %d bytes", path, MAX_FILE_BYTES);
    }
    if (!st && n < 0) st = qh_fail(&r->err, QH_EIO, "%s: %s", path, strerror(errno));
    close(fd);
    return st;
}

static void read_run(qh_work *w)
{
    file_read *r = (file_read *)w;
    for (int i = 0; i < 2 && r->paths[i]; i++) {
        qh_err_clear(&r->err);
        r->found = i;
        if (read_whole(r, r->paths[i]) != QH_ENOTFOUND) return;
    }
}

/* Takes the paths. */
static file_read *read_begin(lua_State *L, const char *root, char *path, char *other_path)
{
    file_read *r = qh_new0(file_read);
    r->root = root ? qh_strdup(root) : NULL;
    r->paths[0] = path;
    r->paths[1] = other_path;
    r->work.run = read_run;
    r->work.free = read_free;
    qh_work_begin(L, &r->work);
    return r;
}

/* Names of chunks: "@" and the path below the app's folder; "=" and the path below the
 * library's. Both show the path only; the first byte tells whose code it is. */
static void push_chunk_name(lua_State *L, const char *path)
{
    const char *root = qh_vm_of(L)->opts.app_dir;
    size_t n = root ? strlen(root) : 0;
    if (n && strncmp(path, root, n) == 0 && path[n] == '/') path += n + 1;
    lua_pushfstring(L, "@%s", path);
}

/* Push the compiled chunk and its path; raises. Consumes r. library_file: NULL for a file of the
 * app. */
static void read_compile(lua_State *L, file_read *r, const char *library_file)
{
    qh_vm *vm = qh_vm_of(L);
    for (int i = 0; i < 2 && r->paths[i]; i++)
        if (i <= r->found) qh_vm_note_file(vm, r->paths[i]);
    qh_vm_privileged_begin(vm);                 /* so that r cannot leak */
    int status = LUA_ERRRUN;
    if (r->err.status) {
        lua_pushstring(L, r->err.msg);
    } else {
        if (library_file) lua_pushfstring(L, "=%s", library_file);
        else push_chunk_name(L, r->paths[r->found]);
        if (!library_file) qh_source_note(vm, lua_tostring(L, -1) + 1, &r->text);
        status = luaL_loadbufferx(L, qh_str_z(&r->text), r->text.len, lua_tostring(L, -1), "t");
        lua_remove(L, -2);
    }
    lua_pushstring(L, r->paths[r->found]);
    qh_work_free(&r->work);
    qh_vm_privileged_end(vm);
    if (status) {
        lua_pop(L, 1);
        lua_error(L);
    }
}

/* ---- names ---- */

static bool is_module_name(const char *name, size_t len)
{
    if (!len || len > MAX_NAME_BYTES || name[0] == '.' || name[len - 1] == '.') return false;
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        bool is_word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '-';
        if (!is_word && (c != '.' || name[i + 1] == '.')) return false;
    }
    return true;
}

static char *app_path(const char *dir, const char *name, const char *ending)
{
    qh_str s = {0};
    qh_str_appendf(&s, "%s/", dir);
    for (; *name; name++) qh_str_append_c(&s, *name == '.' ? '/' : *name);
    qh_str_append_z(&s, ending);
    return qh_str_steal(&s);
}

static bool is_library_name(const char *name)
{
    return strncmp(name, "qhost", 5) == 0 && (!name[5] || name[5] == '.');
}

/* ---- the library ---- */

static const qh_lua_module *find_library(const char *name)
{
    for (int i = 0; i < qh_n_lua_modules; i++)
        if (strcmp(qh_lua_modules[i].name, name) == 0) return &qh_lua_modules[i];
    return NULL;
}

static void set_globals(lua_State *L, const char *field)
{
    lua_getfield(L, LUA_REGISTRYINDEX, field);
    if (!lua_setupvalue(L, -2, 1)) lua_pop(L, 1);
}

/* Push the compiled chunk of a library module. The library folder is the operator's own, read while
 * developing only, so it is read in place. */
static void load_library(lua_State *L, const char *name)
{
    qh_vm *vm = qh_vm_of(L);
    const qh_lua_module *m = find_library(name);
    if (!m) luaL_error(L, "module '%s' is not part of the qhost library", name);
    if (vm->opts.lib_dir) {
        file_read *r = qh_new0(file_read);
        qh_str path = {0};
        qh_str_appendf(&path, "%s/%s", vm->opts.lib_dir, m->file);
        r->paths[0] = qh_str_steal(&path);
        r->work.free = read_free;
        read_run(&r->work);
        read_compile(L, r, m->file);
        lua_pop(L, 1);
    } else {
        lua_pushfstring(L, "=%s", m->file);
        if (luaL_loadbufferx(L, m->source, m->len_bytes, lua_tostring(L, -1), "t")) lua_error(L);
        lua_remove(L, -2);
    }
    set_globals(L, QH_LIB_GLOBALS);
}

int qh_module_require(lua_State *L, const char *name)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LIB_MODULES);
    if (lua_getfield(L, -1, name) == LUA_TNIL) {
        lua_pop(L, 1);
        lua_pushlightuserdata(L, (void *)name);
        lua_setfield(L, -2, name);
        load_library(L, name);
        lua_pushstring(L, name);
        lua_getfield(L, LUA_REGISTRYINDEX, BINDINGS);
        lua_call(L, 2, 1);
        if (lua_isnil(L, -1)) luaL_error(L, "module '%s' returns nothing", name);
        lua_pushvalue(L, -1);
        lua_setfield(L, -3, name);
    } else if (lua_islightuserdata(L, -1)) {
        luaL_error(L, "module '%s' requires itself", name);
    }
    lua_remove(L, -2);
    return 1;
}

/* Among themselves library modules may leave out the first word: "api.openai". */
static int library_require(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    if (!is_library_name(name)) name = lua_pushfstring(L, "qhost.%s", name);
    return qh_module_require(L, name);
}

void qh_push_app_line(lua_State *L)
{
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (*ar.source != '@' || ar.currentline <= 0) continue;
        lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
        return;
    }
    lua_pushliteral(L, "");
}

/* error(message, level): a level of 2 or more blames the app, however many calls of the library
 * there are in between. */
static int library_error(lua_State *L)
{
    lua_Integer level = luaL_optinteger(L, 2, 1);
    lua_settop(L, 1);
    if (lua_type(L, 1) == LUA_TSTRING && level > 0) {
        if (level > 1) qh_push_app_line(L);
        else luaL_where(L, 1);
        lua_insert(L, 1);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

void qh_module_bind(lua_State *L, const char *name)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, BINDINGS);
    lua_insert(L, -2);
    lua_setfield(L, -2, name);
    lua_pop(L, 1);
}

/* The library as apps see it. Only "qhost" itself is looked through whole; tables of other modules
 * may serve as identities, so their insides stay what they are. */
static int push_library_view(lua_State *L, const char *name)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, VIEWS);
    if (lua_getfield(L, -1, name) == LUA_TNIL) {
        lua_pop(L, 1);
        qh_module_require(L, name);
        if (lua_istable(L, -1)) qh_freeze(L, name, strcmp(name, "qhost") == 0);
        lua_pushvalue(L, -1);
        lua_setfield(L, -3, name);
    }
    lua_remove(L, -2);
    return 1;
}

/* ---- require, as an app calls it ----
 * Stack: 1 name, 2 the table of modules, then what each stage needs. */

static int run_done(lua_State *L, int status, lua_KContext ctx)
{
    (void)ctx;
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_pushvalue(L, 1);
        lua_pushnil(L);
        lua_settable(L, 2);                     /* the next require tries again */
        return lua_error(L);
    }
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, 1);
    }
    lua_pushvalue(L, 1);
    lua_pushvalue(L, -2);
    lua_settable(L, 2);
    return 1;
}

static int compile_protected(lua_State *L)
{
    read_compile(L, lua_touserdata(L, 1), NULL);
    return 2;
}

static int file_ready(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    file_read *r = (file_read *)ctx;
    qh_task *t = qh_task_running(L);
    if (t && qh_task_is_dying(t)) {             /* the next require tries again */
        lua_pushvalue(L, 1);
        lua_pushnil(L);
        lua_settable(L, 2);
    }
    if (!qh_work_is_done(L, &r->work)) return qh_task_park(L, "require", ctx, file_ready);
    lua_pushcfunction(L, compile_protected);
    lua_pushlightuserdata(L, r);
    int st = lua_pcall(L, 1, 2, 0);
    if (st) return run_done(L, st, 0);
    lua_pushvalue(L, 1);
    lua_insert(L, -2);                          /* chunk, name, path */
    return run_done(L, lua_pcallk(L, 2, 1, 0, 0, run_done), 0);
}

static int app_require_again(lua_State *L, int status, lua_KContext ctx);

static int app_require(lua_State *L)
{
    size_t len;
    qh_task_check(L);
    const char *name = luaL_checklstring(L, 1, &len);
    const char *dir = qh_vm_of(L)->opts.app_dir;
    lua_settop(L, 1);
    if (is_library_name(name)) return push_library_view(L, name);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, APP_MODULES);
    lua_pushvalue(L, 1);
    if (lua_gettable(L, 2) != LUA_TNIL && !lua_islightuserdata(L, 3)) return 1;
    void *owner = lua_touserdata(L, 3);
    qh_task *t = qh_task_running(L);
    if (owner && owner == t) return luaL_error(L, "module '%s' requires itself", name);
    if (owner) {                                /* another request is loading it */
        qh_task_wake(t);
        return qh_task_park(L, "require", 0, app_require_again);
    }
    if (!dir) return luaL_error(L, "module '%s' not found: there is no app folder", name);
    if (!is_module_name(name, len))
        return luaL_error(
            L, "'%s' is no module name: letters, digits, '_', '-', and '.' between folders", name);
    lua_settop(L, 2);
    lua_pushvalue(L, 1);
    lua_pushlightuserdata(L, t ? (void *)t : (void *)L);
    lua_settable(L, 2);
    file_read *r =
        read_begin(L, dir, app_path(dir, name, ".lua"), app_path(dir, name, "/init.lua"));
    return file_ready(L, LUA_OK, (lua_KContext)r);
}

static int app_require_again(lua_State *L, int status, lua_KContext ctx)
{
    (void)status, (void)ctx;
    return app_require(L);
}

/* ---- the app's main file ---- */

static int main_ready(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    file_read *r = (file_read *)ctx;
    if (!qh_work_is_done(L, &r->work)) return qh_task_park(L, "load", ctx, main_ready);
    read_compile(L, r, NULL);
    return 2;
}

/* c.load_file(path) -> chunk, path */
static int load_file(lua_State *L)
{
    qh_task_check(L);
    file_read *r = read_begin(L, NULL, qh_strdup(luaL_checkstring(L, 1)), NULL);
    return main_ready(L, LUA_OK, (lua_KContext)r);
}

/* ---- a module's text, for those who run it elsewhere ---- */

static int push_text(lua_State *L, const char *text, size_t len, const char *file)
{
    lua_pushlstring(L, text, len);
    lua_pushfstring(L, "=%s", file);
    return 2;
}

static int text_ready(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    file_read *r = (file_read *)ctx;
    if (!qh_work_is_done(L, &r->work)) return qh_task_park(L, "load", ctx, text_ready);
    qh_vm *vm = qh_vm_of(L);
    qh_vm_note_file(vm, r->paths[0]);
    qh_vm_privileged_begin(vm);                 /* so that r cannot leak */
    bool is_read = !r->err.status;
    if (is_read) lua_pushlstring(L, qh_str_z(&r->text), r->text.len);
    else lua_pushstring(L, r->err.msg);
    push_chunk_name(L, r->paths[0]);
    if (is_read) qh_source_note(vm, lua_tostring(L, -1) + 1, &r->text);
    qh_work_free(&r->work);
    qh_vm_privileged_end(vm);
    if (is_read) return 2;
    lua_pop(L, 1);
    return lua_error(L);
}

/* c.read_module(name) (y) -> text, chunk name; of the library or of the app's folder */
static int read_module(lua_State *L)
{
    size_t len;
    const char *name = luaL_checklstring(L, 1, &len), *dir = qh_vm_of(L)->opts.app_dir;
    qh_task_check(L);
    if (!is_module_name(name, len))
        return luaL_error(
            L, "'%s' is no module name: letters, digits, '_', '-', and '.' between folders", name);
    if (is_library_name(name)) {
        const qh_lua_module *m = find_library(name);
        if (!m) return luaL_error(L, "module '%s' is not part of the qhost library", name);
        return push_text(L, m->source, m->len_bytes, m->file);
    }
    if (!dir) return luaL_error(L, "module '%s' not found: there is no app folder", name);
    file_read *r = read_begin(L, dir, app_path(dir, name, ".lua"), NULL);
    return text_ready(L, LUA_OK, (lua_KContext)r);
}

void qh_module_open(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, QH_LIB_GLOBALS);
    lua_pushcfunction(L, library_require);
    lua_setfield(L, -2, "require");
    lua_pushcfunction(L, library_error);
    lua_setfield(L, -2, "error");
    lua_pop(L, 1);

    /* the view of the app's globals reads its own table: reach it through the metatable */
    lua_getfield(L, LUA_REGISTRYINDEX, QH_APP_GLOBALS);
    lua_getmetatable(L, -1);
    lua_getfield(L, -1, "__index");
    lua_pushcfunction(L, app_require);
    lua_setfield(L, -2, "require");
    lua_pop(L, 3);

    luaL_getsubtable(L, LUA_REGISTRYINDEX, BINDINGS);
    lua_pushcfunction(L, load_file);
    lua_setfield(L, -2, "load_file");
    lua_pushcfunction(L, read_module);
    lua_setfield(L, -2, "read_module");
    lua_pop(L, 1);
}
