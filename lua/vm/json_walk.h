/* json_walk.h - walking a Lua value as JSON sees it: what is a list, what an object, in which order
 * its keys come, and the path to where something is wrong. Nothing here raises; the caller is
 * privileged. Used by the text encoder and by the reader into jansson. Thread: the VM's. */
#pragma once
#include "base/err.h"
#include "base/str.h"
#include "lua/vm/task.h"

enum { QH_WALK_PATH_BYTES = 200 };

typedef struct {
    lua_State *L;
    bool is_sorted;             /* __jsonorder is not looked at */
    int depth;
    qh_steps steps;
    char path[QH_WALK_PATH_BYTES];      /* "messages[2].content" */
    size_t path_len;
    qh_str *out;                /* of the encoder */
    qh_err *err;
} qh_json_walk;

qh_status qh_walk_fail(qh_json_walk *e, qh_status st, const char *what);    /* "<path>: <what>" */
qh_status qh_walk_fail_type(qh_json_walk *e, int index);
/* Into a value: checks depth, time and the Lua stack; the caller counts e->depth down. */
qh_status qh_walk_enter(qh_json_walk *e);

/* Add to the path; returns its old length for qh_walk_back. */
size_t qh_walk_key(qh_json_walk *e, qh_slice key);
size_t qh_walk_index(qh_json_walk *e, lua_Integer i);
void   qh_walk_back(qh_json_walk *e, size_t len);

typedef enum { QH_TABLE_ARRAY, QH_TABLE_OBJECT } qh_table_kind;
qh_table_kind qh_walk_kind(lua_State *L, int t);

/* Length of a list that has the keys 1..n only. */
qh_status qh_walk_array_len(qh_json_walk *e, int t, lua_Integer *n);

/* The keys of an object in the order of writing. They are anchored by the table itself. */
typedef struct {
    qh_slice fixed[32], *keys;
    int n, cap;
} qh_key_list;
qh_status qh_walk_keys(qh_json_walk *e, int t, qh_key_list *k);
void      qh_key_list_deinit(qh_key_list *k);
