/* generation.h - a job of the engine in the hands of a script: what handle:submit returns.
 *
 *   submit ---> the engine ---> events, polled for all jobs ---> the queue here ---> gen:next()
 *
 * It belongs to the scope of the task that submitted it: when that ends, when the script cancels
 * or closes it, or drops it, the engine is told. A script that does not read (its client is
 * slow) lets the queue grow to a limit; then the job is paused in the engine until the queue is
 * short again.
 * Thread: the loop thread. */
#pragma once
#include "lua/lua_private.h"

/* Push an empty userdata: before the job exists, so that memory that is not there loses nothing. */
void qh_generation_push(lua_State *L);
/* Move gen, which it takes, to the engine, for the userdata at index. Does not raise. */
qh_status qh_generation_submit(lua_State *L, int index, const qh_lua_model *m, qh_gen *gen,
                               qh_err *err);
/* Take what the engine has to tell. */
void qh_generation_poll(qh_lua *lua, qh_engine *engine);
