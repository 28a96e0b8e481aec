/* spec.h - what handle:submit takes: a table of named options, read into a job for the engine.
 *
 * Here only types are checked; what values mean, and whether they go together, the engine checks at
 * admission. Nothing raises, so that the job cannot leak. Thread: the loop thread. */
#pragma once
#include "engine/engine.h"
#include <lua.h>

/* The table at index (a positive one) into gen, which has its defaults. QH_EINVAL names the field
 * and what was expected; *is_known is false when there is no such field, which is a bug of the
 * library's caller. */
qh_status qh_spec_read(lua_State *L, int index, qh_gen *gen, bool *is_known, qh_err *err);
