/* json_shape.c - see json_shape.h */
#include "lua/vm/json_shape.h"
#include "lua/vm/convert.h"
#include <string.h>

void qh_shapes_begin(qh_shape_list *s, lua_State *L)
{
    s->L = L;
    s->n_shapes = 0;
    lua_createtable(L, QH_MAX_SHAPES, 0);
    s->shapes_at = lua_gettop(L);
}

static void push_object_metatable(lua_State *L, int order_at)
{
    lua_createtable(L, 0, 2);
    lua_pushliteral(L, "object");
    lua_setfield(L, -2, "__jsontype");
    lua_pushvalue(L, order_at);
    lua_setfield(L, -2, "__jsonorder");
}

/* Give the object on top the metatable of its shape. */
static void set_shape(qh_shape_list *s, const qh_shape *of)
{
    lua_State *L = s->L;
    for (int i = 0; i < s->n_shapes; i++) {
        if (s->shapes[i].n_keys != of->n_keys) continue;
        if (memcmp(s->shapes[i].keys, of->keys, sizeof *of->keys * (size_t)of->n_keys) != 0)
            continue;
        lua_rawgeti(L, s->shapes_at, i + 1);
        lua_setmetatable(L, -2);
        return;
    }
    lua_createtable(L, of->n_keys, 0);
    for (int i = 0; i < of->n_keys; i++) {
        lua_pushstring(L, of->keys[i]);
        lua_rawseti(L, -2, i + 1);
    }
    push_object_metatable(L, lua_gettop(L));
    lua_remove(L, -2);
    if (s->n_shapes < QH_MAX_SHAPES) {
        s->shapes[s->n_shapes++] = *of;
        lua_pushvalue(L, -1);
        lua_rawseti(L, s->shapes_at, s->n_shapes);
    }
    lua_setmetatable(L, -2);
}

/* The empty lists of a document share a metatable too. */
void qh_shapes_mark_array(qh_shape_list *s)
{
    lua_State *L = s->L;
    if (lua_rawgeti(L, s->shapes_at, QH_MAX_SHAPES + 1) == LUA_TNIL) {
        lua_pop(L, 1);
        qh_json_mark_array(L);
        lua_getmetatable(L, -1);
        lua_rawseti(L, s->shapes_at, QH_MAX_SHAPES + 1);
        return;
    }
    lua_setmetatable(L, -2);
}

void qh_object_begin(qh_object_builder *o, lua_State *L)
{
    lua_createtable(L, 0, 4);
    o->obj_at = lua_gettop(L);
    o->has_list = false;
    o->n_keys = 0;
    o->shape.n_keys = 0;
}

static void spill_shape(qh_object_builder *o, lua_State *L)
{
    lua_createtable(L, 2 * QH_SHAPE_KEYS, 0);
    for (int i = 0; i < o->shape.n_keys; i++) {
        lua_pushstring(L, o->shape.keys[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_insert(L, o->obj_at + 1);
    o->has_list = true;
}

/* Stack: ... key. Note it unless the object has it. */
void qh_object_note_key(qh_object_builder *o, lua_State *L)
{
    lua_pushvalue(L, -1);
    bool is_known = lua_rawget(L, o->obj_at) != LUA_TNIL;
    lua_pop(L, 1);
    if (is_known) return;
    size_t len;
    const char *key = lua_tolstring(L, -1, &len);
    bool is_short = len <= 40 && !memchr(key, 0, len);  /* interned, and pushstring gives it back */
    if (!o->has_list && (o->shape.n_keys == QH_SHAPE_KEYS || !is_short)) spill_shape(o, L);
    o->n_keys++;
    if (o->has_list) {
        lua_pushvalue(L, -1);
        lua_rawseti(L, o->obj_at + 1, o->n_keys);
    } else {
        o->shape.keys[o->shape.n_keys++] = key;
    }
}

/* Leaves the object on top. */
void qh_object_end(qh_object_builder *o, lua_State *L, qh_shape_list *shapes)
{
    if (!o->has_list) {
        set_shape(shapes, &o->shape);
        return;
    }
    push_object_metatable(L, o->obj_at + 1);
    lua_setmetatable(L, o->obj_at);
    lua_settop(L, o->obj_at);
}
