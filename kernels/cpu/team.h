/* team.h - a fixed set of threads that run the same function side by side.
 *
 * A step of a small model is some 150 regions of 5 to 50 us; waking a thread costs as much as a
 * region, so the team's threads spin between them. The caller of qh_team_run is thread 0; the
 * others wait for the next run, spinning first and then asleep on a futex, so that an idle team
 * costs nothing. Barriers wait the same way, for a shorter time where others need the cores.
 *
 * Thread: one run at a time; barrier only from inside fn, by every thread of the team. */
#pragma once
#include "base/err.h"

typedef struct qh_team qh_team;

enum { QH_TEAM_MAX = 256 };

/* n_threads 1..QH_TEAM_MAX, the caller included. pin: thread i stays on the i-th CPU this process
 * may use; the caller's own affinity is never touched. */
qh_status qh_team_new(qh_team **out, int n_threads, bool pin, qh_err *err);
void      qh_team_free(qh_team *t);                 /* no run may be under way; NULL is fine */
int       qh_team_size(const qh_team *t);

/* fn(arg, thread) on every thread of the team; returns when all have returned. */
void qh_team_run(qh_team *t, void (*fn)(void *arg, int thread), void *arg);

/* Nobody passes until everybody has arrived; what was written before is seen after. */
void qh_team_barrier(qh_team *t, int thread);
