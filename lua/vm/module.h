/* module.h - where modules come from: the qhost library (built in, or a folder) and the app's
 * folder.
 *
 *   require "qhost"             qhost/init.lua of the library
 *   require "qhost.api.openai"  api/openai.lua of the library
 *   require "a.b"               <app dir>/a/b.lua, else <app dir>/a/b/init.lua
 *
 * A library chunk is called with (name, c): c is the table of C bindings, which scripts never
 * see. An app's chunk is called with (name, path), and gets library modules as views that cannot
 * be changed. `require` reads on a worker and waits for it; nothing above the app's folder can
 * be reached. */
#pragma once
#include "lua/vm/state.h"

typedef struct {
    const char *name;           /* "qhost.app" */
    const char *file;           /* "qhost/app.lua": below the library's folder */
    const char *source;
    size_t len_bytes;
} qh_lua_module;

extern const qh_lua_module qh_lua_modules[];
extern const int qh_n_lua_modules;

/* Put the table on top under `name` into c and pop it. Bindings do this before the first
 * require. */
void qh_module_bind(lua_State *L, const char *name);

/* Push the value of a library module, as library code sees it. Raises; runs the chunk on first
 * use. */
int  qh_module_require(lua_State *L, const char *name);

/* Push "app.lua:12: ", the innermost line of the app that is at work, or "" when there is none:
 * what the library does is the doing of the app that called it. */
void qh_push_app_line(lua_State *L);
