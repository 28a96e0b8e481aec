/* convert.h - JSON and Lua values, to and fro; nothing of a document is lost on the way.
 *
 *   JSON        Lua
 *   object      table; its metatable has __jsontype = "object" and __jsonorder = {keys in order}
 *   array       table 1..n; an empty one has __jsontype = "array"
 *   null        qh_json_null: a light userdata
 *   number      integer when it is written as one and fits, else float
 *   string      string, UTF-8; a lone surrogate escape becomes U+FFFD
 *
 * A table without __jsontype is an array when [1] is set, else an object with its keys sorted; keys
 * that __jsonorder does not name come last, sorted. So equal values give equal bytes.
 * All functions work on raw tables and run no code of the script. Thread: the VM's. */
#pragma once
#include "base/err.h"
#include "base/str.h"
#include <jansson.h>
#include <lua.h>

enum {
    QH_JSON_MAX_DEPTH = 200,
    QH_JSON_MAX_BYTES = 32 << 20        /* of encoded text */
};

void qh_json_push_null(lua_State *L);
bool qh_json_is_null(lua_State *L, int index);
/* Give the table on top the metatable of an array or an object. */
void qh_json_mark_array(lua_State *L);
void qh_json_mark_object(lua_State *L);

/* Parse and push. On failure pushes nothing; QH_EFORMAT: err names line and column; QH_ELIMIT:
 * it took the time that a task may spend in one call. RFC 8259; a repeated key keeps its first
 * place and its last value. Raises only for memory. */
qh_status qh_json_decode(lua_State *L, const char *text, size_t len, qh_err *err);

/* The same in pieces. push leaves the decoder on the stack; text stays where it is until go_on has
 * returned something else than QH_AGAIN, which means that the task's turn is over: call it again later,
 * with the stack as it was left. At the end the stack is as before push, with the value if QH_OK. */
typedef struct qh_json_decoder qh_json_decoder;
qh_json_decoder *qh_json_decoder_push(lua_State *L, const char *text, size_t len, bool may_pause);
qh_status        qh_json_decoder_go_on(qh_json_decoder *d, qh_err *err);

/* Append the value at index. is_sorted: every object by key, __jsonorder not looked at. On failure
 * out holds a part of it; err names the path ("messages[2].content"). QH_EUNSUPPORTED: a function
 * or the like; QH_ELIMIT: too deep, too long; QH_EFORMAT: keys that mix, NaN. Does not raise. */
qh_status qh_json_encode(lua_State *L, int index, bool is_sorted, qh_str *out, qh_err *err);

/* The same between Lua and jansson, for C callers. push raises only for memory and depth. */
void      qh_json_push(lua_State *L, const json_t *v);
qh_status qh_json_read(lua_State *L, int index, json_t **out, qh_err *err);
