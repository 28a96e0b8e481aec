/* sandbox.c - the globals that scripts see: an allow-list, and views that cannot be changed.
 *
 * Scripts get views (an empty table whose metatable reads the real one), so that one request
 * cannot change what the next one calls. Gone: io, debug, package, dofile, loadfile,
 * string.dump, bytecode, __gc in metatables (finalizers run where no watchdog reaches), most of
 * os and collectgarbage. pcall, xpcall and load let the error of a dying task pass. */
#include "lua/vm/lists.h"
#include "lua/vm/pattern.h"
#include "lua/vm/vm_private.h"
#include "base/log.h"
#include "base/str.h"
#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

enum { MAX_CHUNK_BYTES = 1 << 20, COLLECT_US = 1000 };

/* ---- views ---- */

static const char FROZEN_KEY;                   /* its address marks the metatable of a view */

static bool is_frozen(lua_State *L, int index)
{
    if (!lua_getmetatable(L, index)) return false;
    bool yes = lua_rawgetp(L, -1, &FROZEN_KEY) != LUA_TNIL;
    lua_pop(L, 2);
    return yes;
}

static int refuse_write(lua_State *L)
{
    const char *name = lua_tostring(L, lua_upvalueindex(1));
    const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2);
    if (strcmp(name, LUA_GNAME) == 0)
        return luaL_error(
            L, "there are no global variables: make '%s' local, or return it from a module", key);
    return luaL_error(L, "%s.%s cannot be changed: the library is read-only", name, key);
}

static int next_of_view(lua_State *L)
{
    lua_settop(L, 2);
    if (lua_next(L, lua_upvalueindex(1))) return 2;
    lua_pushnil(L);
    return 1;
}

static int pairs_of_view(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushcclosure(L, next_of_view, 1);
    lua_pushvalue(L, 1);
    lua_pushnil(L);
    return 3;
}

static void push_view(lua_State *L, int real, const char *name)
{
    real = lua_absindex(L, real);
    lua_createtable(L, 0, 0);
    lua_createtable(L, 0, 5);
    lua_pushvalue(L, real);
    lua_setfield(L, -2, "__index");
    lua_pushstring(L, name);
    lua_pushcclosure(L, refuse_write, 1);
    lua_setfield(L, -2, "__newindex");
    lua_pushvalue(L, real);
    lua_pushcclosure(L, pairs_of_view, 1);
    lua_setfield(L, -2, "__pairs");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pushboolean(L, 1);
    lua_rawsetp(L, -2, &FROZEN_KEY);
    lua_setmetatable(L, -2);
}

static bool has_metatable(lua_State *L, int index)
{
    if (!lua_getmetatable(L, index)) return false;
    lua_pop(L, 1);
    return true;
}

/* A table that can be called, and has no other metamethod, stays callable as a view. */
static bool is_callable(lua_State *L, int index)
{
    if (luaL_getmetafield(L, index, "__call") == LUA_TNIL) return false;
    lua_pop(L, 1);
    return luaL_getmetafield(L, index, "__index") == LUA_TNIL || (lua_pop(L, 1), false);
}

/* Stack: ... real, view. */
static void keep_call(lua_State *L)
{
    lua_getmetatable(L, -1);
    luaL_getmetafield(L, -3, "__call");
    lua_setfield(L, -2, "__call");
    lua_pop(L, 1);
}

/* Deep views read a copy whose plain tables are views in turn. */
static void push_deep_copy(lua_State *L, int real, const char *name)
{
    luaL_checkstack(L, 8, NULL);
    real = lua_absindex(L, real);
    lua_createtable(L, 0, 8);
    for (lua_pushnil(L); lua_next(L, real);) {
        lua_pushvalue(L, -2);
        bool can_call = lua_istable(L, -2) && is_callable(L, -2);
        if (lua_istable(L, -2) && lua_type(L, -3) == LUA_TSTRING &&
            (can_call || !has_metatable(L, -2))) {
            const char *inner = lua_pushfstring(L, "%s.%s", name, lua_tostring(L, -3));
            lua_pushvalue(L, -3);
            lua_pushvalue(L, -1);
            qh_freeze(L, inner, true);
            if (can_call) keep_call(L);
            lua_remove(L, -2);
            lua_replace(L, -4);                 /* the value */
            lua_pop(L, 1);                      /* the name */
        }
        lua_insert(L, -2);
        lua_rawset(L, -4);
    }
}

void qh_freeze(lua_State *L, const char *name, bool is_deep)
{
    if (is_deep) {
        push_deep_copy(L, -1, name);
        lua_replace(L, -2);
    }
    push_view(L, -1, name);
    lua_replace(L, -2);
}

/* ---- base functions with a guard ---- */

static int sb_rawset(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checkany(L, 2);
    luaL_checkany(L, 3);
    lua_settop(L, 3);
    if (is_frozen(L, 1)) return luaL_error(L, "rawset: the library is read-only");
    lua_rawset(L, 1);
    return 1;
}

static int sb_setmetatable(lua_State *L)
{
    int type = lua_type(L, 2);
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_argexpected(L, type == LUA_TNIL || type == LUA_TTABLE, 2, "nil or table");
    if (luaL_getmetafield(L, 1, "__metatable") != LUA_TNIL)
        return luaL_error(L, "cannot change a protected metatable");
    if (type == LUA_TTABLE) {
        lua_pushliteral(L, "__gc");
        if (lua_rawget(L, 2) != LUA_TNIL)
            return luaL_error(
                L, "setmetatable: __gc is not available to scripts; use a <close> variable");
    }
    lua_settop(L, 2);
    lua_setmetatable(L, 1);
    return 1;
}

static void protected_begin(lua_State *L)
{
    qh_coro_mark *mark = qh_coro_mark_of(L);
    if (mark->n_protected >= QH_VM_MAX_PROTECTED)
        luaL_error(L, "stack overflow: too many nested pcalls");
    mark->n_protected++;
}

static int caught(lua_State *L, int status)
{
    if (status == LUA_ERRMEM) qh_task_out_of_memory(L);
    qh_task_rethrow(L);
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
}

/* What pcall_end is told: how many values below the results are its own, and how many sorts were at
 * work, since an error that is caught here has ended the later ones. */
enum { SKIPPED_BITS = 4 };

static lua_KContext end_context(lua_State *L, int n_skipped)
{
    return (lua_KContext)qh_coro_mark_of(L)->n_sorts << SKIPPED_BITS | n_skipped;
}

static int pcall_end(lua_State *L, int status, lua_KContext ctx)
{
    int n_skipped = (int)(ctx & ((1 << SKIPPED_BITS) - 1));
    qh_coro_mark_of(L)->n_protected--;
    if (status == LUA_OK || status == LUA_YIELD) return lua_gettop(L) - n_skipped;
    qh_coro_mark_of(L)->n_sorts = (uint16_t)(ctx >> SKIPPED_BITS);
    return caught(L, status);
}

/* The error of a task that dies passes every pcall: note its place where it was raised. */
static int dying_handler(lua_State *L)
{
    qh_task *t = qh_task_running(L);
    return t && qh_task_is_dying(t) ? qh_error_record(L) : 1;
}

static int sb_pcall(lua_State *L)
{
    luaL_checkany(L, 1);
    protected_begin(L);
    lua_pushcfunction(L, dying_handler);
    lua_insert(L, 1);
    lua_pushboolean(L, 1);
    lua_insert(L, 2);
    lua_KContext ctx = end_context(L, 1);
    return pcall_end(L, lua_pcallk(L, lua_gettop(L) - 3, LUA_MULTRET, 1, ctx, pcall_end), ctx);
}

/* The script's handler, unless the task dies: then the error may have been raised by the watchdog's
 * hook, within which no further hook can stop the handler. */
static int guarded_handler(lua_State *L)
{
    qh_task *t = qh_task_running(L);
    if (t && qh_task_is_dying(t)) return qh_error_record(L);
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

static int sb_xpcall(lua_State *L)
{
    int n = lua_gettop(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    protected_begin(L);
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, guarded_handler, 1);
    lua_replace(L, 2);
    lua_pushboolean(L, 1);
    lua_pushvalue(L, 1);
    lua_rotate(L, 3, 2);                        /* f, handler, true, f, args... */
    lua_KContext ctx = end_context(L, 2);
    return pcall_end(L, lua_pcallk(L, n - 2, LUA_MULTRET, 2, ctx, pcall_end), ctx);
}

/* Collect the pieces of a reader function: stack 1 is the function; leaves the text on top. */
static int read_pieces(lua_State *L)
{
    luaL_Buffer b;
    size_t total = 0;
    luaL_buffinit(L, &b);
    for (;;) {
        lua_pushvalue(L, 1);
        lua_call(L, 0, 1);
        size_t len = 0;
        const char *piece = lua_tolstring(L, -1, &len);
        if (lua_isnil(L, -1) || (piece && !len)) break;
        if (!piece) return luaL_error(L, "reader function must return a string");
        if ((total += len) > MAX_CHUNK_BYTES)
            return luaL_error(L, "chunk over %d bytes", MAX_CHUNK_BYTES);
        luaL_addvalue(&b);
    }
    lua_pop(L, 1);
    luaL_pushresult(&b);
    return 1;
}

static int refuse_chunk(lua_State *L, const char *kind, const char *mode)
{
    lua_pushnil(L);
    lua_pushfstring(L, "attempt to load a %s chunk (mode is '%s')", kind, mode);
    return 2;
}

static int sb_load(lua_State *L)
{
    const char *mode = luaL_optstring(L, 3, "t");
    bool has_env = !lua_isnone(L, 4), is_text = lua_type(L, 1) == LUA_TSTRING;
    lua_settop(L, 4);
    size_t len;
    if (!is_text) {
        luaL_checktype(L, 1, LUA_TFUNCTION);
        lua_pushcfunction(L, read_pieces);
        lua_pushvalue(L, 1);
        int status = lua_pcall(L, 1, 1, 0);
        if (status) {
            caught(L, status);
            lua_pushnil(L);
            lua_replace(L, -3);
            return 2;
        }
    } else {
        lua_pushvalue(L, 1);
    }
    const char *text = lua_tolstring(L, -1, &len);
    const char *name = luaL_optstring(L, 2, is_text ? text : "=(load)");
    if (len > MAX_CHUNK_BYTES) {
        lua_pushnil(L);
        lua_pushfstring(L, "chunk over %d bytes", MAX_CHUNK_BYTES);
        return 2;
    }
    if (len && *text == *LUA_SIGNATURE) return refuse_chunk(L, "binary", "t");
    if (!strchr(mode, 't')) return refuse_chunk(L, "text", mode);
    int status = luaL_loadbufferx(L, text, len, name, "t");
    if (status) {
        if (status == LUA_ERRMEM) qh_task_out_of_memory(L), qh_task_rethrow(L);
        lua_pushnil(L);
        lua_insert(L, -2);
        return 2;
    }
    if (has_env) {
        lua_pushvalue(L, 4);
        if (!lua_setupvalue(L, -2, 1)) lua_pop(L, 1);
    }
    return 1;
}

/* In pieces, with the turns of others in between. */
static int collect_go_on(lua_State *L, int status, lua_KContext target)
{
    (void)status;
    qh_vm *vm = qh_vm_of(L);
    qh_task_check(L);
    while ((int)(vm->collector.n_cycles - (unsigned)target) < 0)
        if (!qh_collect_for(vm, COLLECT_US) && qh_task_may_pause(L))
            return qh_task_pause(L, target, collect_go_on);
    lua_pushinteger(L, 0);
    return 1;
}

static int sb_collectgarbage(lua_State *L)
{
    static const char *const OPTIONS[] = {"collect", "count", "step", NULL};
    int option = luaL_checkoption(L, 1, "collect", OPTIONS);
    if (option == 1) {
        lua_pushnumber(L, (lua_Number)qh_vm_of(L)->used_bytes / 1024);
        return 1;
    }
    if (option == 0 && qh_vm_of(L)->collector.is_on)
        return collect_go_on(L, LUA_OK, (lua_KContext)qh_collect_target(qh_vm_of(L)));
    int done = lua_gc(L, option == 0 ? LUA_GCCOLLECT : LUA_GCSTEP, 0);
    if (option == 0) lua_pushinteger(L, done);
    else lua_pushboolean(L, done);
    return 1;
}

/* print is for looking at things: a log line, as stdout belongs to results. */
static int sb_print(lua_State *L)
{
    int n = lua_gettop(L);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (int i = 1; i <= n; i++) {
        if (i > 1) luaL_addlstring(&b, "\t", 1);
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&b);
    }
    luaL_pushresult(&b);
    qh_info("app.print", "text=%s", lua_tostring(L, -1));
    return 0;
}

/* ---- the two sets of globals ---- */

static void drop(lua_State *L, const char *const *names)
{
    for (; *names; names++) {
        lua_pushnil(L);
        lua_setfield(L, -2, *names);
    }
}

/* Replace the table on top by one with only these fields. */
static void keep(lua_State *L, const char *const *names)
{
    lua_createtable(L, 0, 4);
    for (; *names; names++) {
        lua_getfield(L, -2, *names);
        lua_setfield(L, -2, *names);
    }
    lua_replace(L, -2);
}

static void protect_string_metatable(lua_State *L)
{
    lua_pushliteral(L, "");
    lua_getmetatable(L, -1);
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 2);
}

void qh_sandbox_open(lua_State *L)
{
    static const luaL_Reg LIBS[] = {
        {LUA_GNAME, luaopen_base},       {LUA_STRLIBNAME, luaopen_string},
        {LUA_TABLIBNAME, luaopen_table}, {LUA_MATHLIBNAME, luaopen_math},
        {LUA_UTF8LIBNAME, luaopen_utf8}, {LUA_OSLIBNAME, luaopen_os},
        {LUA_COLIBNAME, qh_coro_open},   {NULL, NULL}};
    static const char *const BASE_OUT[] = {"dofile", "loadfile", "warn", NULL};
    static const char *const STRING_OUT[] = {"dump", NULL};
    static const char *const OS_IN[] = {"time", "clock", "date", "difftime", NULL};
    static const luaL_Reg GUARDED[] = {
        {"rawset", sb_rawset}, {"setmetatable", sb_setmetatable}, {"pcall", sb_pcall},
        {"xpcall", sb_xpcall}, {"load", sb_load}, {"collectgarbage", sb_collectgarbage},
        {"print", sb_print}, {NULL, NULL}};
    static const luaL_Reg STRING_COUNTED[] = {
        {"find", qh_string_find}, {"match", qh_string_match}, {"gmatch", qh_string_gmatch},
        {"gsub", qh_string_gsub}, {"rep", qh_string_rep}, {NULL, NULL}};
    static const luaL_Reg TABLE_COUNTED[] = {
        {"insert", qh_table_insert}, {"remove", qh_table_remove}, {"move", qh_table_move},
        {"concat", qh_table_concat}, {"sort", qh_table_sort}, {NULL, NULL}};

    for (const luaL_Reg *lib = LIBS; lib->name; lib++) {
        luaL_requiref(L, lib->name, lib->func, 1);
        lua_pop(L, 1);
    }
    lua_pushglobaltable(L);
    drop(L, BASE_OUT);
    luaL_setfuncs(L, GUARDED, 0);
    lua_getfield(L, -1, LUA_STRLIBNAME);
    drop(L, STRING_OUT);
    luaL_setfuncs(L, STRING_COUNTED, 0);
    lua_pop(L, 1);
    lua_getfield(L, -1, LUA_TABLIBNAME);
    luaL_setfuncs(L, TABLE_COUNTED, 0);
    lua_pop(L, 1);
    lua_getfield(L, -1, LUA_OSLIBNAME);
    keep(L, OS_IN);
    lua_setfield(L, -2, LUA_OSLIBNAME);
    protect_string_metatable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, QH_LIB_GLOBALS);

    /* what scripts see: the same, each library as a view, then the whole as one */
    lua_createtable(L, 0, 32);
    lua_pushglobaltable(L);
    for (lua_pushnil(L); lua_next(L, -2);) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        if (lua_istable(L, -1)) qh_freeze(L, lua_tostring(L, -2), false);
        lua_rawset(L, -5);
    }
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    qh_freeze(L, LUA_GNAME, false);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, LUA_GNAME);             /* _G._G is the view */
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, QH_APP_GLOBALS);
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);    /* of chunks that load() makes */
    lua_pop(L, 1);
}
