/* library_test.c - tests of library modules written in Lua, run inside a VM with the bindings:
 * tests/lua/vm/. */
#include "lua/vm/module.h"
#include "vm_fixture.h"

static int require_raw(lua_State *L)
{
    return qh_module_require(L, luaL_checkstring(L, 1));
}

/* read(path) -> bytes | nil */
static int read_file(lua_State *L)
{
    FILE *file = fopen(luaL_checkstring(L, 1), "rb");
    if (!file) return 0;
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    char buf[4096];
    for (size_t n; (n = fread(buf, 1, sizeof buf, file)) > 0;) luaL_addlstring(&b, buf, n);
    fclose(file);
    luaL_pushresult(&b);
    return 1;
}

static void push_chunk(lua_State *L, const char *path)
{
    lua_pushcfunction(L, read_file);
    lua_pushstring(L, path);
    lua_call(L, 1, 1);
    if (lua_isnil(L, -1)) fail_msg("%s cannot be read", path);
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    lua_pushfstring(L, "@%s", path);
    if (luaL_loadbufferx(L, text, len, lua_tostring(L, -1), "t"))
        fail_msg("%s", lua_tostring(L, -1));
    lua_replace(L, -3);
    lua_pop(L, 1);
    lua_call(L, 0, 1);
}

static void push_means(lua_State *L)
{
    lua_newtable(L);
    lua_pushcfunction(L, require_raw);
    lua_setfield(L, -2, "library");
    lua_pushcfunction(L, read_file);
    lua_setfield(L, -2, "read");
    lua_pushstring(L, qh_test_data());
    lua_setfield(L, -2, "data");
}

static void run_file(const char *name)
{
    fixture f = fixture_open(NULL);
    lua_State *L = qh_vm_lua(f.vm);
    outcome o = {0};
    qh_task_limits unlimited = {.slice_us = 2000};
    char path[4096];
    qh_vm_privileged_begin(f.vm);
    push_chunk(L, QH_SOURCE_DIR "/tests/lua/library.lua");
    lua_pushstring(L, name);
    snprintf(path, sizeof path, QH_SOURCE_DIR "/tests/lua/vm/%s", name);
    push_chunk(L, path);
    push_means(L);
    qh_vm_privileged_end(f.vm);
    qh_task_start(qh_task_new(f.vm, 3, &unlimited, &OUTCOME_OPS, &o));
    finish(&f, &o);
    bool is_good = o.end == QH_TASK_OK && strcmp(qh_str_z(&o.text), "passed") == 0;
    if (!is_good) print_error("%s\n", qh_str_z(&o.text));
    qh_str_deinit(&o.text);
    fixture_close(&f);
    CHECK(is_good);
}

#define LIBRARY_TEST(name)                                                                         \
    TEST(name)                                                                                     \
    {                                                                                              \
        run_file(#name "_test.lua");                                                               \
    }

LIBRARY_TEST(schema)
LIBRARY_TEST(json_schema)
LIBRARY_TEST(url)
LIBRARY_TEST(time)
LIBRARY_TEST(crypto)
LIBRARY_TEST(re)

TEST_MAIN()
