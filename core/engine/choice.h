/* choice.h - a job at work, and each of its choices: from tokens drawn to events told.
 *
 * A choice begins with the job (choice 0) or as a fork of choice 0 when the prompt is computed. It draws
 * tokens until something finishes it, and keeps what it has not told yet: text, token infos, the end.
 * Thread: engine thread only; the flags are shared with the loop thread. */
#pragma once
#include "engine/engine.h"
#include "engine/sampler.h"
#include "engine/seq.h"
#include "engine/stopper.h"
#include "text/detok.h"
#include <stdatomic.h>

/* Raised by the loop thread (cancel, paused) or the engine (started) in the job's slot. */
enum { QH_FLAG_CANCEL = 1, QH_FLAG_PAUSED = 2, QH_FLAG_STARTED = 4 };

/* What all jobs of an engine share; borrowed by each. */
typedef struct {
    qh_sampler *sampler;
    qh_kvpool *pool;
    qh_prefix *prefix;          /* NULL: no prefix cache */
    const qh_vocab *vocab;
    const qh_token *eos;        /* [n_eos] all end-of-generation ids */
    int n_eos;
    int max_context;
    qh_str piece;               /* scratch */
} qh_gen_env;

typedef struct {
    qh_token_info *v;
    int n, cap;
} qh_info_list;

typedef struct qh_job qh_job;

typedef enum {
    QH_CHOICE_UNBORN,           /* forks when the prompt is computed */
    QH_CHOICE_WAITING,          /* in the queue, without pages */
    QH_CHOICE_RUNNING,
    QH_CHOICE_FINISHED
} qh_choice_state;

/* Where a choice's turn is. Unless it is home the choice sits out. */
typedef enum { QH_TURN_HOME, QH_TURN_UNSENT, QH_TURN_OUT } qh_turn_place;

typedef struct qh_choice {
    qh_job *job;
    int index;
    qh_choice_state state;
    qh_seq *seq;                /* NULL while unborn and when finished */
    qh_detok detok;
    qh_stopper stopper;
    int n_completion, n_preempted;
    qh_turn *turn;              /* of a job with a policy, from its first question on; moved while OUT */
    qh_turn_place place;
    /* for the scheduler */
    struct qh_choice *prev, *next;  /* in the queue */
    int64_t order;
    int n_passed_over;
    int64_t paused_us;          /* since when it may not run; -1: it may */
    bool has_bad_kv;            /* a step failed on it: its pages are not for the prefix cache */
    /* not told yet */
    qh_str text;
    int64_t n_text_told;        /* bytes */
    qh_info_list prompt_infos, infos;
    qh_finish finish;
    int stop_match;             /* index, or -1 */
    qh_status status;
    char *message, *reason;
    bool is_told;               /* DONE was told: nothing follows */
    int64_t first_token_us, finished_us;    /* engine clock; first_token: -1 before */
} qh_choice;

struct qh_job {
    qh_job *prev, *next;
    qh_job_id id;
    qh_gen *gen;                /* its prompt moves into the first sequence */
    _Atomic unsigned *flags;    /* borrowed slot; NULL in tests that need none */
    uint64_t seed;
    qh_stop_set stops;
    qh_token *banned;           /* [n_banned] while there are fewer than min_tokens tokens */
    int n_banned;
    qh_choice *choices;
    int n_choices;
    bool has_forked, is_started;    /* started: admitted once, or ended without */
    int n_prompt, n_cached, n_scored;   /* prompt tokens; taken from the cache; rows that gave prompt logprobs */
    int64_t submitted_us, admitted_us;  /* admitted: -1 before */
};

/* Takes gen. Always gives a job; if memory for it was missing, its choices are finished with an error. */
qh_job *qh_job_new(qh_job_id id, qh_gen *gen_adopt, _Atomic unsigned *flags, qh_gen_env *env,
                   int64_t submitted_us);
void    qh_job_free(qh_job *j);
bool    qh_job_is_told(const qh_job *j);            /* every choice has told its end */

/* Row p of the prompt gave logits: the log-probability of token p + 1. */
qh_status qh_choice_score_prompt(qh_choice *c, qh_gen_env *env, int p, const float *logits,
                                 qh_err *err);
/* Fork the other choices from choice 0, whose prompt is computed. A fork without memory finishes. */
void      qh_job_fork(qh_job *j, qh_gen_env *env, int64_t now_us);
/* Draw the next token; may finish the choice. Of a job with a policy: make up the question, which is
 * then UNSENT. */
void      qh_choice_draw(qh_choice *c, qh_gen_env *env, const float *logits, int64_t now_us);

/* Its turn came home with a token or without; may finish the choice. */
void      qh_choice_take_turn(qh_choice *c, qh_gen_env *env, int64_t now_us);

/* End it: pages back, the rest of the text released. message may be NULL. Finished ones are left alone. */
void qh_choice_finish(qh_choice *c, qh_gen_env *env, qh_finish finish, qh_status st,
                      const char *message, int64_t now_us);
/* Undelivered output is over its bound: it should sit out steps. */
bool      qh_choice_is_full(const qh_choice *c);
/* Move the next thing to tell into *out; false when there is none. */
bool      qh_choice_tell(qh_choice *c, qh_event *out);
