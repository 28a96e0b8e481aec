/* lists.h - the functions of `table` and string.rep that loop in C, with their steps counted.
 *
 * A table's __len may claim any length, and table.move takes any range, so these loops can
 * outlast the universe where no hook fires. Semantics as in the reference manual, 6.4 and 6.6. */
#pragma once
#include <lua.h>

int qh_table_insert(lua_State *L);
int qh_table_remove(lua_State *L);
int qh_table_move(lua_State *L);
int qh_table_concat(lua_State *L);
int qh_table_sort(lua_State *L);
int qh_string_rep(lua_State *L);
