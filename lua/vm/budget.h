/* budget.h - the watchdog: notices Lua code that runs too long, without a cost for code that
 * does not.
 *
 * A permanent count hook costs 15-118 %. Instead a thread looks once a millisecond whether the
 * same slice is still at work. When it has used up its CPU time, the thread sends the loop
 * thread a signal; the handler, like the one in the stand-alone interpreter, sets a hook that
 * fires at the next instruction. The hook lets the task yield, or kills it. lua_sethook may be
 * called from a signal handler on the same thread but not from another thread, hence the signal.
 *
 * Time is CPU time of the thread: neighbours that take the core away do not shorten a script's
 * turn.
 * Thread: new, begin, end and free on the thread that runs Lua; one budget a thread. */
#pragma once
#include "base/err.h"
#include <lua.h>

typedef struct qh_budget qh_budget;

qh_status qh_budget_new(qh_budget **out, qh_err *err);
void      qh_budget_free(qh_budget *b);         /* NULL is fine; no slice is at work */

/* A slice begins with L running; overrun(L) will be called from a hook once it has used slice_us of
 * CPU, and again for each further slice_us, until the slice ends. overrun may raise or yield.
 * Slices do not nest. */
void      qh_budget_begin(qh_budget *b, lua_State *L, int64_t slice_us,
                          void (*overrun)(lua_State *L));
int64_t   qh_budget_end(qh_budget *b);          /* CPU used by the slice, in microseconds */
void      qh_budget_switch(qh_budget *b, lua_State *L); /* another coroutine of the slice runs */
int64_t   qh_budget_used(qh_budget *b);         /* by the slice at work; for use inside overrun */
void      qh_budget_arm(qh_budget *b); /* call overrun at the next instruction of this slice */
void      qh_budget_hold(qh_budget *b);         /* ... and at every one after it */
