/* scripted.h - a backend without weights: a callback says which token comes next. For tests.
 *
 * Its vocabulary is the 256 bytes and three control tokens, so any text is tokens; its KV pages hold the
 * tokens themselves, and the callback is asked with the prefix as the pages tell it. So the scheduler,
 * the prefix cache, forks, scores, constraints and every protocol run for real and deterministically.
 * A rate paces it like a model: one step lasts at least 1/rate seconds.
 *
 * Thread: the callback runs on the engine thread; close on the thread that closes the backend. */
#pragma once
#include "kernels/backend.h"

enum {
    QH_SCRIPTED_EOS = 256,          /* "<|endoftext|>", a stop token; ids below are bytes */
    QH_SCRIPTED_IM_START = 257,     /* "<|im_start|>" */
    QH_SCRIPTED_IM_END = 258,       /* "<|im_end|>", a stop token */
    QH_SCRIPTED_VOCAB = 259,
    QH_SCRIPTED_MAX_NEXT = 64
};

/* What may come next: n tokens and their weights, whose logarithms become the logits; all other tokens
 * get -60. So probabilities come out as they are. */
typedef struct {
    int n;
    qh_token ids[QH_SCRIPTED_MAX_NEXT];
    float weights[QH_SCRIPTED_MAX_NEXT];
} qh_scripted_next;

typedef struct {
    /* Fill *out for the token after tokens[0..n). A failure is logged and fails the one request that
     * asked, by logits that are not numbers. */
    qh_status (*next)(void *arg, const qh_token *tokens, int n, qh_scripted_next *out, qh_err *err);
    void (*close)(void *arg);       /* when the backend closes; may be NULL */
    void *arg;
    double steps_per_s;             /* tokens a second of each stream; 0: as fast as it goes */
    double prefill_per_s;           /* prompt tokens a second, all together; 0: as fast as it goes */
} qh_script;

/* On failure script->arg stays with the caller. */
qh_status qh_scripted_open(qh_backend **out, const qh_script *script,
                           const qh_backend_limits *limits, qh_err *err);

/* A description with this vocabulary and context, for the engine. */
void      qh_scripted_desc(qh_desc *out, int n_ctx);
