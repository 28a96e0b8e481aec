/* engine.h - the engine as the loop thread sees it: submit jobs, receive events, cancel.
 *
 * The engine owns a thread, the sequences, the KV pages and the backend. Jobs enter through a
 * bounded mailbox; events come back through another, with one wakeup a step for all sequences.
 * Nothing here waits: a full mailbox is QH_AGAIN.
 *
 *   loop thread                          engine thread
 *   qh_engine_submit(job) --- mbox --->  admit, schedule, step, sample, detokenize
 *   qh_engine_cancel(id)                      |
 *   qh_engine_poll() <---- mbox + wakeup -----+  events: TEXT*, DONE
 *                                             |
 *                                             +--- turns ---> a policy's thread ---> and home
 *
 * Ownership: a submitted job is moved; on failure it stays with the caller. Events are moved to the
 * callback's receiver, who calls qh_event_deinit. */
#pragma once
#include "base/clock.h"
#include "base/thread.h"
#include "engine/policy.h"
#include "engine/sampling.h"
#include "kernels/backend.h"
#include "text/tokenizer.h"

typedef struct qh_engine qh_engine;
typedef uint64_t qh_job_id;                     /* never reused in a process; 0: none */

typedef struct {
    int max_seqs;                               /* running at once; default 64 */
    int max_queued;                             /* waiting; more is QH_AGAIN -> 429; default 256 */
    int step_tokens;                            /* rows of a step: decode first, then prefill; default 512 */
    int max_context;                            /* tokens of a sequence; 0: the model's. Cut to the backend's
                                                   limits and to the pages, see n_pages */
    int n_pages; /* KV pages to use; 0: all that the backend reserved. A
                                                   sequence may hold n_pages - 1: one stays spare for copies */
    bool no_prefix_cache;
    qh_clock *clock;                            /* NULL: real */
    const char *metric_labels;                  /* NULL, or 'model="..."'; kept for the process's life */
    qh_wakeup on_events;                        /* fired when events are ready to poll */
} qh_engine_config;

typedef enum {
    QH_FINISH_NONE,
    QH_FINISH_STOP,                             /* stop token, stop string */
    QH_FINISH_LENGTH,                           /* max_tokens or context */
    QH_FINISH_CANCELED,
    QH_FINISH_ERROR,                            /* event.status and .message say why */
    QH_FINISH_POLICY                            /* event.reason says why: the policy's own word, or
                                                   "policy_error", "policy_timeout" with a .message */
} qh_finish;

/* A generation. All pointers are owned by the job (qh_gen_free). */
typedef struct {
    qh_tokens prompt;                           /* at least one token */
    qh_sampling sampling;                       /* per choice the seed's stream differs */
    int n_choices;                              /* forks after prefill; default 1, at most max_seqs */
    int max_tokens, min_tokens; /* max 0, or more than fits: up to the context. Before min_tokens
                                                   stop tokens are banned and stop strings not looked for */
    bool ignore_eos;                            /* the model's end tokens do not stop; stop_tokens do */
    char **stop_strings;                        /* n_stop_strings, UTF-8, none empty */
    int n_stop_strings;                         /* the one that ends first counts, of equals the longest */
    bool keep_stop_string;                      /* leave the stop string in the text */
    qh_token *stop_tokens;
    int n_stop_tokens;
    qh_token *shown_tokens; /* control tokens that stand in the text by name: marks of a format */
    int n_shown_tokens;
    bool logprobs;                              /* of each sampled token */
    int top_logprobs;                           /* alternatives a token, <= 20 */
    bool prompt_logprobs;                       /* of each prompt token after the first (score, echo) */
    bool wants_tokens;                          /* a note for whoever reads the events, which have the
                                                   tokens anyway: they are worth passing on */
    int priority;                               /* larger is sooner; default 0 */
    int64_t deadline_us;                        /* engine clock; 0: none. QH_ETIMEDOUT when it passes */
    uint64_t cache_salt;                        /* prefix cache is shared only among equal salts */
    qh_policy *policy;                          /* chooses the tokens; a reference. NULL: the sampler alone */
} qh_gen;
qh_gen *qh_gen_new(void);                       /* defaults filled in */
void    qh_gen_free(qh_gen *g);                 /* NULL is fine */

typedef struct {
    qh_token id;
    float logprob; /* natural log, of the model's distribution at temperature 1,
                                                   before bias and penalties; NaN when not asked for */
    int n_top;
    struct { qh_token id; float logprob; } *top;/* [n_top] best first, owned */
    int64_t text_end;                           /* bytes of the choice's text that are certain with it */
} qh_token_info;

typedef struct {
    int n_prompt, n_cached, n_completion;
    int64_t queue_us, prefill_us, decode_us, first_token_us;    /* first_token: since submit */
    int n_preempted;
} qh_usage;

typedef struct {
    qh_job_id job;
    int choice;                                 /* 0 .. n_choices-1 */
    enum { QH_EVENT_PROMPT, QH_EVENT_TEXT, QH_EVENT_DONE } type;
    /* PROMPT, of choice 0: tokens[] are the prompt's after the first, with logprobs; only when asked. A long one
     * comes in several events, in order, all before its first TEXT.
     * TEXT: whole UTF-8 characters, maybe empty while a stop string or character is held back, and
     * the tokens sampled since the last event; text and tokens need not line up. */
    char *text;
    size_t text_len;
    qh_token_info *tokens;
    int n_tokens;
    /* DONE, once for each choice, last of its choice, also after a cancel. The stop token is the last of
     * the tokens told and of n_completion, and has no text. */
    qh_finish finish;
    const char *stop_match;                     /* owned copy of the matched stop string, or NULL */
    qh_status status;                           /* with FINISH_ERROR */
    char *message;                              /* with FINISH_ERROR and _POLICY, or NULL; owned */
    char *reason;                               /* with FINISH_POLICY, owned */
    qh_usage usage;
} qh_event;
void qh_event_deinit(qh_event *e);

/* Takes the backend (closes it in free; on failure it stays with the caller). tok is borrowed; it may
 * be NULL when the backend brings a vocabulary of its own, which then counts. Starts the engine thread. */
qh_status qh_engine_new(qh_engine **out, qh_backend *be, const qh_desc *desc,
                        const qh_tokenizer *tok, const qh_engine_config *cfg, qh_err *err);
/* Cancels everything, joins the thread, waits for turns that are out, closes the backend. NULL is fine. */
void      qh_engine_free(qh_engine *e);

/* Tokens that a sequence may have, prompt and completion: the configuration within what memory holds. */
int       qh_engine_max_context(const qh_engine *e);

/* Checks the job (400-class statuses: QH_EINVAL, QH_ECONTEXT, QH_EUNSUPPORTED with the field's name)
 * and moves it to the engine. QH_AGAIN: the queue is full. */
qh_status qh_engine_submit(qh_engine *e, qh_gen *gen_adopt, qh_job_id *out_id, qh_err *err);
/* The job leaves the batch at the next step; its DONE events (FINISH_CANCELED) still come. Unknown
 * or finished ids are ignored. */
void      qh_engine_cancel(qh_engine *e, qh_job_id id);
/* Flow control: a paused job sits out steps until it is resumed. Whoever relays a job's text to a
 * socket pauses it while the socket is congested and resumes it when there is room; what was computed
 * before the pause took effect (a step or two) still arrives. A paused job keeps its pages while
 * nobody needs them, is the first to be preempted, and can be cancelled or time out. Unknown or
 * finished ids are ignored.
 * The engine protects itself as well: events that do not fit the mailbox are joined per choice, and a
 * choice with more than QH_UNDELIVERED_BYTES of text waiting sits out steps until it is polled. */
void      qh_engine_pause(qh_engine *e, qh_job_id id, bool is_paused);
enum { QH_UNDELIVERED_BYTES = 1 << 16 };
/* Next event, or QH_AGAIN. Loop thread. */
qh_status qh_engine_poll(qh_engine *e, qh_event *out);

typedef struct {
    int n_running, n_queued, n_pages_total, n_pages_free, n_pages_cached;
    int64_t n_steps, n_prompt_tokens, n_cached_tokens, n_sampled_tokens, n_preemptions;
    bool is_failed;                             /* the device is gone: /health says 503 */
} qh_engine_stats;
void qh_engine_get_stats(qh_engine *e, qh_engine_stats *out);   /* a snapshot; any thread */
