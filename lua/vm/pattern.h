/* pattern.h - string.find, match, gmatch and gsub with patterns that cannot run away.
 *
 * Lua's patterns (reference manual, 6.4.1) backtrack: a short one can take longer than the
 * universe on a short string, inside one C call where no hook fires. This matcher counts steps. */
#pragma once
#include <lua.h>

int qh_string_find(lua_State *L);
int qh_string_match(lua_State *L);
int qh_string_gmatch(lua_State *L);
int qh_string_gsub(lua_State *L);
