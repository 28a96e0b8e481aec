/* sampling.c - defaults and ranges of what a request may ask; see sampling.h */
#include "engine/sampling.h"
#include "base/mem.h"
#include "engine/dry.h"
#include <math.h>
#include <string.h>

enum { MAX_BIAS = 1024, MAX_BREAKERS = 64 };
static const char *const BREAKERS[] = {"\n", ":", "\"", "*"};

void qh_sampling_init(qh_sampling *s)
{
    *s = (qh_sampling){
        .temperature = 1, .top_p = 1, .typical_p = 1, .xtc_threshold = 0.1f, .repeat_penalty = 1,
        .penalty_window = 64, .dry_base = 1.75f, .dry_allowed_length = 2, .dry_window = -1,
    };
    s->n_dry_breakers = sizeof BREAKERS / sizeof *BREAKERS;
    s->dry_breakers = qh_alloc0(sizeof *s->dry_breakers * (size_t)s->n_dry_breakers);
    for (int i = 0; i < s->n_dry_breakers; i++) s->dry_breakers[i] = qh_strdup(BREAKERS[i]);
}

void qh_sampling_deinit(qh_sampling *s)
{
    for (int i = 0; i < s->n_dry_breakers; i++) qh_free(s->dry_breakers[i]);
    qh_free(s->dry_breakers);
    qh_free(s->bias);
    *s = (qh_sampling){0};
}

static qh_status in_range(const char *field, double v, double lo, double hi, qh_err *err)
{
    if (v >= lo && v <= hi) return QH_OK;       /* false for a NaN */
    return qh_fail(err, QH_EINVAL, "%s is %g, expected %g to %g", field, v, lo, hi);
}

static qh_status check_bias(const qh_sampling *s, int n_vocab, qh_err *err)
{
    if (s->n_bias > MAX_BIAS)
        return qh_fail(err, QH_EINVAL, "logit_bias has %d entries, expected at most %d", s->n_bias,
                       MAX_BIAS);
    for (int i = 0; i < s->n_bias; i++) {
        const qh_logit_bias *b = &s->bias[i];
        if (b->id < 0 || b->id >= n_vocab)
            return qh_fail(err, QH_EINVAL, "logit_bias names token %d, expected 0 to %d", b->id,
                           n_vocab - 1);
        if (isnan(b->bias) || b->bias == INFINITY)
            return qh_fail(err, QH_EINVAL,
                           "logit_bias of token %d is %g, expected a number or -infinity", b->id,
                           (double)b->bias);
    }
    return QH_OK;
}

static qh_status check_breakers(const qh_sampling *s, qh_err *err)
{
    if (s->n_dry_breakers > MAX_BREAKERS)
        return qh_fail(err, QH_EINVAL, "dry_breakers has %d entries, expected at most %d",
                       s->n_dry_breakers, MAX_BREAKERS);
    for (int i = 0; i < s->n_dry_breakers; i++) {
        size_t len = strlen(s->dry_breakers[i]);
        if (len == 0 || len > QH_DRY_MAX_BREAKER_BYTES)
            return qh_fail(err, QH_EINVAL, "dry_breakers[%d] has %zu bytes, expected 1 to %d", i,
                           len, QH_DRY_MAX_BREAKER_BYTES);
    }
    return QH_OK;
}

qh_status qh_sampling_check(const qh_sampling *s, int n_vocab, qh_err *err)
{
    const struct {
        const char *field;
        double v, lo, hi;
    } ranges[] = {
        {"temperature", s->temperature, 0, 100},
        {"top_k", s->top_k, 0, INT32_MAX},
        {"top_p", s->top_p, 0, 1},
        {"min_p", s->min_p, 0, 1},
        {"typical_p", s->typical_p, 0, 1},
        {"xtc_probability", s->xtc_probability, 0, 1},
        {"xtc_threshold", s->xtc_threshold, 0, 1},
        {"repeat_penalty", s->repeat_penalty, 0.01f, 100},
        {"presence_penalty", s->presence_penalty, -2, 2},
        {"frequency_penalty", s->frequency_penalty, -2, 2},
        {"penalty_window", s->penalty_window, -1, INT32_MAX},
        {"dry_multiplier", s->dry_multiplier, 0, 100},
        {"dry_base", s->dry_base, 1, 10},
        {"dry_allowed_length", s->dry_allowed_length, 1, 1000},
        {"dry_window", s->dry_window, -1, INT32_MAX},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        qh_status st = in_range(ranges[i].field, ranges[i].v, ranges[i].lo, ranges[i].hi, err);
        if (st) return st;
    }
    qh_status st = check_bias(s, n_vocab, err);
    return st ? st : check_breakers(s, err);
}
