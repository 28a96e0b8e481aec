/* bind.h - the C bindings: one file a noun. Each pushes a table of functions, which ends up in
 * c, the table that library modules are called with. A binding checks its arguments, calls one
 * function of the core and converts the result; a failed status becomes nil, message, name. */
#pragma once
#include "base/err.h"
#include <lua.h>

void qh_bind_json(lua_State *L);        /* c.json */
void qh_bind_log(lua_State *L);         /* c.log */
void qh_bind_system(lua_State *L);      /* c.system: environment, clocks, sleep, random bits */
void qh_bind_tasks(lua_State *L);       /* c.tasks: groups of tasks */
void qh_bind_channel(lua_State *L);     /* c.channel: new */
void qh_bind_re(lua_State *L);          /* c.re */
void qh_bind_crypto(lua_State *L);      /* c.crypto: digests, encodings, random bytes */
void qh_bind_store(lua_State *L);       /* c.store */
void qh_bind_base(lua_State *L);        /* all that need no host; what a bare VM has */

void qh_bind_exchange(lua_State *L);    /* the metatable of exchanges */
void qh_bind_model(lua_State *L);       /* c.model: open, list, and the metatable of handles */
void qh_bind_generation(lua_State *L);  /* the metatable of generations */
void qh_bind_background(lua_State *L);  /* c.background: start */
void qh_bind_policy(lua_State *L);      /* c.policy: module, bind */
void qh_bind_shared(lua_State *L);      /* c.shared: open, and the methods of shared tables */
void qh_bind_topic(lua_State *L);       /* c.topic: publish, subscribe */
void qh_bind_metrics(lua_State *L);     /* c.metrics: record */
void qh_bind_fetch(lua_State *L);       /* c.fetch: start, and the metatable of fetches */
void qh_bind_host(lua_State *L);        /* all */

/* nil, message, name */
int qh_push_status(lua_State *L, qh_status st, const qh_err *err);

/* Make a metatable for userdata under this registry name, its methods looked up in place, hidden
 * from getmetatable. gc may be NULL. */
struct luaL_Reg;
void qh_bind_class(lua_State *L, const char *name, const struct luaL_Reg *methods,
                   lua_CFunction gc);
