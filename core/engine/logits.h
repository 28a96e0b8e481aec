/* logits.h - one row of logits and the passes over it: maximum, sum of exponentials, candidates.
 *
 * A pass over 152k floats costs tens of microseconds, so there are few, and later ones skip blocks of
 * 64 whose maximum is too small. A fixed number of lanes, combined in a fixed order: a row gives the same bits on
 * every machine.
 * Thread: one owner. */
#pragma once
#include "base/err.h"
#include "text/vocab.h"

enum { QH_LOGITS_BLOCK = 64 };

typedef struct {
    const float *v;             /* [n], borrowed; -INFINITY: banned */
    int n;
    float *block_max;           /* [ceil(n/64)], borrowed scratch */
    float max;
    qh_token argmax;            /* the lowest id of those with the maximum */
} qh_logits;

static inline int qh_logits_n_blocks(int n) { return (n + QH_LOGITS_BLOCK - 1) / QH_LOGITS_BLOCK; }

/* First pass: fills block_max, max and argmax. QH_EFORMAT: a NaN or +infinity. QH_EINVAL: all banned. */
qh_status qh_logits_scan(qh_logits *l, const float *v, int n, float *block_max, qh_err *err);

/* Sum of exp(v - max) over the row. */
double qh_logits_sum_exp(const qh_logits *l);

/* exp(x) for x <= 0 by the same polynomial, relative error below 2^-21; 0 below -87. */
float qh_exp_neg(float x);

/* A token that may still be drawn. */
typedef struct {
    qh_token id;
    float logit;
    float key, weight;          /* of the selection at work */
} qh_cand;

/* Every token with lo <= logit < hi, in ascending order of id. Returns how many. lo must be finite, so
 * that banned tokens stay out. out has room for QH_CAND_SLACK more than it will hold. */
enum { QH_CAND_SLACK = 4 };
int qh_logits_gather(const qh_logits *l, float lo, float hi, qh_cand *out);

/* Set weight = exp(logit - max) for n candidates; returns their sum. */
double qh_cands_weigh(qh_cand *c, int n, float max);

/* A bound that at least k tokens reach, near the k-th largest logit. scratch: [n_blocks]. */
float qh_logits_bound_of_best(const qh_logits *l, int k, float *scratch);
