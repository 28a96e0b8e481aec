/* step.h - the engine without its thread: jobs in, one step at a time, events out.
 *
 * A step: heed cancels, pauses and deadlines; ask the scheduler; preempt, admit, make pages; compute;
 * draw, detokenize, stop; tell. Driven by engine.c's thread, or by a test with a virtual clock.
 * Thread: one owner. */
#pragma once
#include "engine/choice.h"
#include "engine/spec.h"
#include "engine/stats.h"

typedef struct qh_core qh_core;

/* Where events go, and where turns of policies come home to. put is called only after has_room said yes,
 * and takes what the event owns. home is called on any thread, with room for qh_core_max_asked turns; it
 * sees to it that the core's thread calls qh_core_take_turn. NULL: there are no policies. */
typedef struct {
    bool (*has_room)(void *arg);
    void (*put)(void *arg, const qh_event *e);
    void *arg;
    void (*home)(void *arg, qh_turn *t);
} qh_event_sink;

/* be and vocab are borrowed. cfg as in engine.h; its on_events is not used here. */
qh_status qh_core_new(qh_core **out, qh_backend *be, const qh_desc *desc, const qh_vocab *vocab,
                      const qh_engine_config *cfg, qh_event_sink sink, qh_err *err);
void      qh_core_free(qh_core *c);                 /* jobs at work vanish without events; NULL is fine */

const qh_spec_limits *qh_core_limits(const qh_core *c);
qh_stats *qh_core_stats(qh_core *c);

/* gen has passed qh_gen_check. flags: the job's slot, or NULL; read until its last event was put.
 * submitted_us: when the client's thread submitted it, for the usage told. */
void qh_core_submit(qh_core *c, qh_job_id id, qh_gen *gen_adopt, _Atomic unsigned *flags,
                    int64_t submitted_us);

/* A turn is home. Before the core is freed all of them are: see qh_core_n_asked. */
void      qh_core_take_turn(qh_core *c, qh_turn *t);
int       qh_core_n_asked(const qh_core *c);        /* turns that are out */
int       qh_core_max_asked(const qh_core *c);
/* Turns that went out in the last step and are still out; the others are late already. */
int       qh_core_n_due(const qh_core *c);
int64_t   qh_core_step_us(const qh_core *c);        /* what the last step with a batch took */

/* True when something was done, so that the next step may do more. False: nothing to do before a new
 * job, a changed flag, room for events, or the time of qh_core_wake_us. */
bool      qh_core_step(qh_core *c);
int64_t   qh_core_wake_us(const qh_core *c);        /* engine clock; INT64_MAX: nothing is timed */
bool      qh_core_has_untold(const qh_core *c);     /* events wait for room */

/* Asserts the invariants of pages, cache and lists; for tests. */
void      qh_core_check(const qh_core *c);
