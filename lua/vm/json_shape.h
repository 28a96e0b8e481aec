/* json_shape.h - objects of one document with the same keys in the same order share a metatable.
 *
 * A document of many equal objects (messages, tools) would otherwise pay two tables for each. Used
 * by the decoder and by the reader of jansson values. Thread: the VM's. */
#pragma once
#include <lua.h>
#include <stdbool.h>

enum {
    QH_MAX_SHAPES = 8,          /* key lists remembered while one document is read */
    QH_SHAPE_KEYS = 16          /* longer ones are not remembered */
};

typedef struct {
    int n_keys;
    const char *keys[QH_SHAPE_KEYS];    /* Lua's interned strings: equal keys, equal pointers */
} qh_shape;

typedef struct {
    lua_State *L;
    int shapes_at;                      /* stack index of the list of metatables */
    int n_shapes;
    qh_shape shapes[QH_MAX_SHAPES];
} qh_shape_list;

void qh_shapes_begin(qh_shape_list *s,
                     lua_State *L); /* pushes a table that stays below the values */
void qh_shapes_mark_array(qh_shape_list *s);            /* the empty list on top is one */

/* An object under construction: its table is at obj_at; its key order is in the shape, or, once
 * that is full or a key does not compare by pointer, in a list at obj_at + 1. */
typedef struct {
    int obj_at;
    bool has_list;
    int n_keys;
    qh_shape shape;
} qh_object_builder;

void qh_object_begin(qh_object_builder *o, lua_State *L);       /* pushes the table */
/* Stack: ... key. Note it, unless the object has it. Its value is then set with lua_rawset(obj_at).
 */
void qh_object_note_key(qh_object_builder *o, lua_State *L);
void qh_object_end(qh_object_builder *o, lua_State *L,
                   qh_shape_list *shapes); /* leaves it on top */
