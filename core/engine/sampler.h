/* sampler.h - one row of logits in, one token out.
 *
 * A token is a pure function of the logits, the request's settings, the tokens so far, the seed and the
 * choice: no state is carried from one token to the next, so batching, preemption, forks and rewinds
 * cannot change a draw. The draw is Gumbel-max: argmax of logit / temperature + noise, the noise keyed
 * (seed, choice, position, token id). Noise is bounded (its uniform has 23 bits), so tokens too far
 * behind the leader are skipped without computing theirs.
 *
 * A sampler is scratch memory for one vocabulary. Thread: one owner. */
#pragma once
#include "engine/logits.h"
#include "engine/penalties.h"

typedef struct qh_sampler qh_sampler;

/* vocab and its size; max_tokens: the longest sequence. QH_ENOMEM. */
qh_status qh_sampler_new(qh_sampler **out, const qh_vocab *vocab, int n_vocab, int max_tokens,
                         qh_err *err);
void      qh_sampler_free(qh_sampler *s);           /* NULL is fine */

typedef struct {
    const qh_sampling *spec;
    const float *logits;        /* [n_vocab], not changed */
    qh_history history;         /* the draw's position is history.n_tokens */
    uint64_t seed;
    uint32_t choice;
    const qh_token *banned;     /* [n_banned] stop tokens before min_tokens; ids in range */
    int n_banned;
} qh_draw;

/* QH_EINVAL: everything is banned. QH_EFORMAT: the logits are not numbers. */
qh_status qh_sampler_draw(qh_sampler *s, const qh_draw *d, qh_token *out, qh_err *err);

/* What a draw would choose from, for a policy to choose from: the `top` best of the edited row, then the
 * request's truncations. cands has room for top + QH_CAND_SLACK; *max is the edited row's largest logit.
 * Statuses as above. */
qh_status qh_sampler_candidates(qh_sampler *s, const qh_draw *d, int top, qh_cand *cands, int *n,
                                float *max, qh_err *err);

/* Log-probabilities under softmax of the logits as they are: of n_ids ids, and of the n_top best (best
 * first, ties by lower id) into top_ids and top_logprobs. n_top <= QH_MAX_TOP_LOGPROBS. *n_out: how many. */
enum { QH_MAX_TOP_LOGPROBS = 20 };
qh_status qh_sampler_logprobs(qh_sampler *s, const float *logits, const qh_token *ids, int n_ids,
                              float *logprobs, int n_top, qh_token *top_ids, float *top_logprobs,
                              int *n_out, qh_err *err);
