/* The manual lua/types/qhost.lua has an entry for all that scripts can call, and for nothing
 * else. */
#include "lua/vm/module.h"
#include "vm_fixture.h"
#include <lualib.h>

static const char COLLECT[] =
    "local debug, library, types = ...\n"
    "local found, declared, problems = {}, {}, {}\n"
    "local function add(prefix, t, separator)\n"
    "  for name, v in pairs(t) do\n"
    "    local full = prefix .. separator .. name\n"
    "    if type(name) ~= 'string' or name:find '^__' then goto next end\n"
    "    if type(v) == 'function' then found[full] = true end\n"
    "    if type(v) == 'table' and separator == '.' then\n"
    "      local mt = debug.getmetatable(v)\n"
    "      if mt and mt.__call then found[full] = true end\n"
    "      add(full, v, '.')\n"
    "    end\n"
    "    ::next::\n"
    "  end\n"
    "end\n"
    "local function upvalue(fn, name)\n"
    "  for i = 1, 255 do\n"
    "    local n, v = debug.getupvalue(fn, i)\n"
    "    if n == name then return v end\n"
    "    if not n then error('no upvalue ' .. name) end\n"
    "  end\n"
    "end\n"
    "local qh = library 'qhost'\n"
    "local model, template = library 'qhost.model', library 'qhost.template'\n"
    "local Model = upvalue(model.is_model, 'Model')\n"
    "add('qh', qh, '.')\n"
    "add('App', debug.getmetatable(qh.app()).__index, ':')\n"
    "add('Request', upvalue(debug.getmetatable(library('qhost.request').new({method = type, path = "
    "type, id = type, peer = type})).__index, 'Request'), ':')\n"
    "add('Response', debug.getmetatable(library('qhost.response').new({}, {})).__index, ':')\n"
    "add('Model', Model, ':')\n"
    "add('Stream', upvalue(library('qhost.asking').stream, 'Stream'), ':')\n"
    "add('Template', debug.getmetatable(qh.template{render = type}).__index, ':')\n"
    "add('Sampler', debug.getmetatable(qh.sampler{}).__index, ':')\n"
    "add('Clock', upvalue(library('qhost.mock').clock, 'Clock'), ':')\n"
    "local test = library 'qhost.test'\n"
    "add('test', test, '.')\n"
    "add('TestReply', upvalue(test.request, 'Reply'), ':')\n"
    "add('Store', upvalue(library('qhost.store').new, 'Store'), ':')\n"
    "add('Out', upvalue(debug.getmetatable(qh.template{render = type}).__index.render, 'Out'), "
    "':')\n"
    "add('Persist', library('qhost.shared').Persist, ':')\n"
    "add('Shared', debug.getregistry()['qhost.Shared'].__index, ':')\n"
    "add('Upstream', library('qhost.upstream').Upstream, ':')\n"
    "add('Fallback', library('qhost.fallback').Fallback, ':')\n"
    "add('Topic', library('qhost.tasks').Topic, ':')\n"
    "add('Subscription', debug.getregistry()['qhost.Subscription'].__index, ':')\n"
    "add('Reply', library('qhost.fetch').Reply, ':')\n"
    "add('Task', library('qhost.tasks').Task, ':')\n"
    "add('Agent', library('qhost.agent').Agent, ':')\n"
    "add('Run', library('qhost.agent').Run, ':')\n"
    "add('ToolContext', library('qhost.tool').Context, ':')\n"
    "add('Channel', debug.getmetatable(qh.channel()).__index, ':')\n"
    "for name in types:gmatch '\\nfunction ([%w_.:]+)%(' do declared[name] = true end\n"
    "for name in pairs(found) do if not declared[name] then problems[#problems + 1] = 'no entry "
    "for ' .. name end end\n"
    "for name in pairs(declared) do if not found[name] then problems[#problems + 1] = 'no such "
    "function: ' .. name end end\n"
    "for name in types:gmatch '\\n(function [^\\n]+)' do\n"
    "  if not types:find('\\n%-%-%-[^\\n]*\\n' .. name:gsub('%p', '%%%0')) then problems[#problems "
    "+ 1] = 'no words above ' .. name end\n"
    "end\n"
    "table.sort(problems)\n"
    "local n = 0 for _ in pairs(found) do n = n + 1 end\n"
    "return n > 50 and table.concat(problems, '\\n') or 'only ' .. n .. ' functions found'\n";

static int require_raw(lua_State *L) { return qh_module_require(L, luaL_checkstring(L, 1)); }

static void push_file(lua_State *L, const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file) fail_msg("%s cannot be read", path);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    char buf[4096];
    for (size_t n; (n = fread(buf, 1, sizeof buf, file)) > 0;) luaL_addlstring(&b, buf, n);
    luaL_pushresult(&b);
    fclose(file);
}

TEST(every_binding_has_an_entry_and_every_entry_a_binding)
{
    fixture f = fixture_open(NULL);
    f.limits.cpu_us = 2000000;                  /* a manual that grows */
    lua_State *L = qh_vm_lua(f.vm);
    outcome o = {0};
    f.limits = (qh_task_limits){.slice_us = 2000};
    qh_vm_privileged_begin(f.vm);
    qh_bind_shared(L);                          /* what only a host has */
    qh_bind_topic(L);
    if (luaL_loadbufferx(L, COLLECT, sizeof COLLECT - 1, "=collect", "t"))
        fail_msg("%s", lua_tostring(L, -1));
    lua_pushcfunction(L, luaopen_debug);
    lua_call(L, 0, 1);
    lua_pushcfunction(L, require_raw);
    push_file(L, QH_SOURCE_DIR "/lua/types/qhost.lua");
    qh_vm_privileged_end(f.vm);
    qh_task_start(qh_task_new(f.vm, 3, &f.limits, &OUTCOME_OPS, &o));
    finish(&f, &o);
    if (o.text.len) print_error("%s\n", qh_str_z(&o.text));
    CHECK_INT(o.end, QH_TASK_OK);
    CHECK_INT(o.text.len, 0);
    qh_str_deinit(&o.text);
    fixture_close(&f);
}

TEST_MAIN()
