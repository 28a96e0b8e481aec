/* bind.h - the C bindings: one file a noun. Each pushes a table of functions, which ends up in c, the
 * table that library modules are called with. A binding checks its arguments, calls one function of
 * the core and converts the result; a failed status becomes nil, message, name. */
#pragma once
#include "base/err.h"
#include <lua.h>

void qh_bind_json(lua_State *L);        /* c.json */
void qh_bind_log(lua_State *L);         /* c.log */
void qh_bind_system(lua_State *L);      /* c.system: environment, clocks, sleep */
void qh_bind_base(lua_State *L);        /* all that need no host; what a bare VM has */

/* nil, message, name */
int qh_push_status(lua_State *L, qh_status st, const qh_err *err);
