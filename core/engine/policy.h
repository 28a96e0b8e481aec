/* policy.h - a sampling policy as the engine sees it: rows of candidates go out, tokens come home.
 *
 * Who runs a policy, and in which language, is not the engine's business: it hands a turn to ask() and
 * goes on. The turn comes home through its own function, on any thread; until then the sequence sits out.
 *
 *   engine thread                                  the policy's thread
 *   candidates of a row -> turn ---- ask() ---->   the policy edits them, the draw, what it remembers
 *   take in the token   <---- turn->home() ----+
 *
 * A turn belongs to one sequence and is reused from token to token, so the decode path allocates nothing.
 * It is moved: whoever does not have it touches none of it but the part marked as the engine's own.
 *
 * Order of application: logit bias, penalties and DRY on the row; then the `top` best tokens, and the
 * request's own truncations on those; then the policy; then temperature and draw. So a policy that does
 * nothing gives the tokens of the plain sampler with top_k cut to `top`. */
#pragma once
#include "base/err.h"
#include "engine/race.h"
#include <stdatomic.h>

enum {
    QH_POLICY_MAX_TOP = 256,
    QH_POLICY_REASON_BYTES = 41,    /* a word of at most 40 */
    QH_POLICY_MESSAGE_BYTES = QH_ERR_MSG_BYTES
};

typedef struct qh_policy qh_policy;

typedef enum {
    QH_TURN_TOKEN,                  /* token was drawn */
    QH_TURN_STOP,                   /* so it was, and it is the last; reason "": an ordinary stop */
    QH_TURN_FAILED,                 /* no token: message says why */
    QH_TURN_TIMED_OUT               /* no token: the policy used more time than it may */
} qh_turn_verdict;

typedef struct qh_turn {
    qh_policy *policy;              /* a reference of its own */
    /* the engine's own while the turn is out */
    struct qh_choice *choice;       /* NULL: it ended meanwhile */
    int n_asked;                    /* candidates that went out */
    qh_token *ids;                  /* [n_asked] theirs, and their log-probabilities; NULL: not asked for */
    float *logprobs;
    qh_token *top_ids;              /* [n_top] alternatives, best first */
    float *top_logprobs;
    int n_top;
    int64_t step;                   /* in which it went out */
    void (*home)(void *arg, struct qh_turn *t);     /* any thread; always succeeds */
    void *home_arg;
    /* the question */
    const qh_vocab *vocab;          /* borrowed, lives longer than the turn */
    qh_noise noise;                 /* its position is the number of tokens before the draw */
    float temperature;              /* the request's; 0: greedy */
    float max;                      /* the largest logit of the row, which scores are relative to */
    int n_out, n_prompt;            /* tokens drawn so far, tokens of the prompt */
    int max_tokens;                 /* that the sequence may draw in all */
    int n;                          /* candidates, in no particular order */
    /* the answer */
    qh_turn_verdict verdict;
    qh_token token;                 /* one of the candidates that went out */
    char reason[QH_POLICY_REASON_BYTES];
    char message[QH_POLICY_MESSAGE_BYTES];
    void *mind;                     /* what the policy remembers of the sequence; NULL: nothing yet */
    qh_cand cands[];                /* [top + QH_CAND_SLACK] */
} qh_turn;

typedef struct {
    /* Moves the turn. QH_AGAIN: no room now. QH_ECLOSED: nobody answers any more. */
    qh_status (*ask)(qh_policy *p, qh_turn *t);
    void (*forget)(void *mind);     /* the sequence ended; its turn is not out. Any thread */
    void (*free)(qh_policy *p);     /* the last reference is gone. Any thread */
} qh_policy_ops;

struct qh_policy {
    const qh_policy_ops *ops;
    _Atomic int n_refs;
    int top;                        /* candidates it wants, 1 .. QH_POLICY_MAX_TOP */
};

qh_policy *qh_policy_ref(qh_policy *p);
void       qh_policy_unref(qh_policy *p);       /* NULL is fine */

/* n_top: alternatives whose log-probabilities are wanted; wants_logprobs: those of the candidates.
 * NULL: no memory. */
qh_turn *qh_turn_new(qh_policy *p, bool wants_logprobs, int n_top);
void     qh_turn_free(qh_turn *t);              /* NULL is fine */
