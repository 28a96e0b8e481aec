/* json_value.c - jansson values to Lua and back; see convert.h */
#include "lua/vm/convert.h"
#include "lua/vm/json_shape.h"
#include "lua/vm/json_walk.h"
#include "lua/vm/vm_private.h"
#include <lauxlib.h>
#include <string.h>

static void push_jansson(lua_State *L, const json_t *v, qh_shape_list *shapes, int depth);

static void push_jansson_object(lua_State *L, const json_t *v, qh_shape_list *shapes, int depth)
{
    qh_object_builder o;
    qh_object_begin(&o, L);
    for (void *it = json_object_iter((json_t *)v); it;
         it = json_object_iter_next((json_t *)v, it)) {
        lua_pushstring(L, json_object_iter_key(it));
        qh_object_note_key(&o, L);
        push_jansson(L, json_object_iter_value(it), shapes, depth + 1);
        lua_rawset(L, o.obj_at);
    }
    qh_object_end(&o, L, shapes);
}

static void push_jansson(lua_State *L, const json_t *v, qh_shape_list *shapes, int depth)
{
    if (depth > QH_JSON_MAX_DEPTH) luaL_error(L, "JSON nested too deep");
    luaL_checkstack(L, 12, NULL);
    switch (json_typeof(v)) {
    case JSON_OBJECT: push_jansson_object(L, v, shapes, depth); break;
    case JSON_ARRAY:
        lua_createtable(L, (int)json_array_size(v), 0);
        for (size_t i = 0; i < json_array_size(v); i++) {
            push_jansson(L, json_array_get(v, i), shapes, depth + 1);
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
        if (!json_array_size(v)) qh_shapes_mark_array(shapes);
        break;
    case JSON_STRING: lua_pushlstring(L, json_string_value(v), json_string_length(v)); break;
    case JSON_INTEGER: lua_pushinteger(L, json_integer_value(v)); break;
    case JSON_REAL: lua_pushnumber(L, json_real_value(v)); break;
    case JSON_TRUE: lua_pushboolean(L, 1); break;
    case JSON_FALSE: lua_pushboolean(L, 0); break;
    case JSON_NULL: qh_json_push_null(L); break;
    }
}

void qh_json_push(lua_State *L, const json_t *v)
{
    qh_shape_list shapes;
    qh_shapes_begin(&shapes, L);
    push_jansson(L, v, &shapes, 0);
    lua_remove(L, shapes.shapes_at);
}

static qh_status read_value(qh_json_walk *e, int index, json_t **out);

static qh_status read_array(qh_json_walk *e, int t, json_t **out)
{
    lua_Integer n;
    qh_status st = qh_walk_array_len(e, t, &n);
    *out = json_array();
    for (lua_Integer i = 1; !st && i <= n; i++) {
        json_t *item = NULL;
        size_t path = qh_walk_index(e, i);
        lua_rawgeti(e->L, t, i);
        st = read_value(e, lua_gettop(e->L), &item);
        lua_pop(e->L, 1);
        if (!st && json_array_append_new(*out, item))
            st = qh_walk_fail(e, QH_ENOMEM, "out of memory");
        qh_walk_back(e, path);
    }
    return st;
}

static qh_status read_object(qh_json_walk *e, int t, json_t **out)
{
    qh_key_list keys;
    qh_status st = qh_walk_keys(e, t, &keys);
    *out = json_object();
    for (int i = 0; !st && i < keys.n; i++) {
        json_t *item = NULL;
        size_t path = qh_walk_key(e, keys.keys[i]);
        lua_pushlstring(e->L, keys.keys[i].data, keys.keys[i].len);
        if (strlen(keys.keys[i].data) != keys.keys[i].len)
            st = qh_walk_fail(e, QH_EFORMAT, "a NUL byte in a key");
        lua_rawget(e->L, t);
        if (!st) st = read_value(e, lua_gettop(e->L), &item);
        if (!st && json_object_set_new(*out, keys.keys[i].data, item))
            st = qh_walk_fail(e, QH_EFORMAT, "a key that is not UTF-8");
        lua_pop(e->L, 1);
        qh_walk_back(e, path);
    }
    qh_key_list_deinit(&keys);
    return st;
}

static qh_status read_value(qh_json_walk *e, int index, json_t **out)
{
    lua_State *L = e->L;
    size_t len;
    qh_status st = qh_walk_enter(e);
    if (st) return st;
    switch (lua_type(L, index)) {
    case LUA_TNIL: *out = json_null(); break;
    case LUA_TBOOLEAN: *out = json_boolean(lua_toboolean(L, index)); break;
    case LUA_TNUMBER:
        *out = lua_isinteger(L, index) ? json_integer(lua_tointeger(L, index))
                                       : json_real(lua_tonumber(L, index));
        if (!*out) st = qh_walk_fail(e, QH_EFORMAT, "JSON has no NaN and no infinity");
        break;
    case LUA_TSTRING: {
        const char *s = lua_tolstring(L, index, &len);
        *out = json_stringn(s, len);
        if (!*out) st = qh_walk_fail(e, QH_EFORMAT, "a string that is not UTF-8");
        break;
    }
    case LUA_TTABLE:
        st = qh_walk_kind(L, index) == QH_TABLE_ARRAY ? read_array(e, index, out)
                                                      : read_object(e, index, out);
        break;
    default:
        if (qh_json_is_null(L, index)) *out = json_null();
        else st = qh_walk_fail_type(e, index);
    }
    if (st) {
        json_decref(*out);
        *out = NULL;
    }
    e->depth--;
    return st;
}

qh_status qh_json_read(lua_State *L, int index, json_t **out, qh_err *err)
{
    qh_vm *vm = qh_vm_of(L);
    qh_json_walk e = {.L = L, .steps = qh_steps_begin("reading JSON"), .err = err};
    *out = NULL;
    index = lua_absindex(L, index);
    qh_vm_privileged_begin(vm);
    qh_status st = read_value(&e, index, out);
    qh_vm_privileged_end(vm);
    return st;
}
