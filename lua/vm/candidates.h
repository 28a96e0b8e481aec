/* candidates.h - the candidates of one token, as a policy's script sees and edits them.
 *
 * They are those of a turn (engine/policy.h), edited in place. They count from 1, the likeliest first; the
 * order is made when it is first asked for. Probabilities are those of what is left, at temperature 1:
 * what a method removes or changes, the next one sees. Every method takes time bounded by the number of
 * candidates, so that none of them can keep a policy's thread.
 * Thread: the one of the state. */
#pragma once
#include "engine/policy.h"
#include <lua.h>

typedef struct {
    qh_turn *turn;              /* NULL: outside of logits, where nothing may be asked */
    float max;                  /* that scores are relative to: the row's largest logit, or the set's once edited */
    bool is_sorted, is_weighed;
    double sum;                 /* of weights, when weighed */
    double sum_at_first;        /* of the weights with which the turn came, kept in key */
} qh_candidates;

/* Makes the class known and pushes its one object of this state. */
qh_candidates *qh_candidates_push(lua_State *L);

void qh_candidates_begin(qh_candidates *c, qh_turn *t);     /* weighs them */
void qh_candidates_end(qh_candidates *c);                   /* the turn is settled: its max and n */
/* The chance that id had among the candidates as they came. */
double qh_candidates_chance(const qh_candidates *c, const qh_turn *t, qh_token id);

/* The names of the methods, ending with NULL; for the test of the manual. */
extern const char *const qh_candidates_methods[];
