/* mind.h - the small VM of a sampling policy: one Lua state for one sequence.
 *
 * A policy's module is run anew for each sequence, in a state of its own, so that neither a variable of
 * the module nor a hog can reach another sequence: the tokens of a request do not depend on who else has
 * the same policy. Such a state costs some tens of microseconds and about 25 KB.
 *
 *   globals   an allow-list: math without its random numbers, the parts of string and table whose time is
 *             bounded by the heap, utf8, and assert, error, ipairs, next, pairs, select, tonumber,
 *             tostring, type. Nothing that waits, reads, loads, or catches errors
 *   memory    QH_MIND_BYTES; beyond it the policy fails
 *   time      each call may use the policy's budget_us of CPU on average: unused time is saved up to
 *             QH_MIND_CREDIT_US, which a sequence also begins with, so that a cold cache or a neighbour
 *             kills nobody. Who has used it up is stopped by the watchdog, in the middle of a loop too.
 *
 * Thread: one at a time; the budget is the thread's own. */
#pragma once
#include "engine/policy.h"
#include "lua/vm/budget.h"
#include <jansson.h>

enum { QH_MIND_BYTES = 1 << 20, QH_MIND_CREDIT_US = 5000 };

typedef struct {
    const char *name;           /* for messages */
    const char *chunk;          /* "@policies/tired.lua": the chunk's name in error messages */
    const void *code;           /* for qh_mind_compile the text, then what that gave */
    size_t len_bytes;
    int budget_us;              /* of a call */
} qh_mind_module;

typedef struct qh_mind qh_mind;

/* Bytecode of a module's text, with its lines. *out: caller frees with qh_free. QH_ESCRIPT. */
qh_status qh_mind_compile(const qh_mind_module *m, void **out, size_t *len_bytes, qh_err *err);

/* Run the module, compiled, and its init. turn: the sequence's first question; params: borrowed for the call. On
 * failure *out is NULL. QH_ESCRIPT: what it raised. QH_ETIMEDOUT: it took too long. */
qh_status qh_mind_new(qh_mind **out, const qh_mind_module *m, const qh_turn *turn,
                      const json_t *params, qh_budget *budget, qh_err *err);
void      qh_mind_free(qh_mind *m);             /* NULL is fine. Any thread, while no turn is at work */

/* logits, the draw, accept: fills in the turn's answer. */
void      qh_mind_take_turn(qh_mind *m, qh_turn *t, qh_budget *budget);
