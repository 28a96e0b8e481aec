/* policy.c - references and turns; see policy.h */
#include "engine/policy.h"
#include "base/mem.h"

qh_policy *qh_policy_ref(qh_policy *p)
{
    atomic_fetch_add_explicit(&p->n_refs, 1, memory_order_relaxed);
    return p;
}

void qh_policy_unref(qh_policy *p)
{
    if (p && atomic_fetch_sub(&p->n_refs, 1) == 1) p->ops->free(p);
}

qh_turn *qh_turn_new(qh_policy *p, bool wants_logprobs, int n_top)
{
    size_t n_cands = (size_t)p->top + QH_CAND_SLACK;
    qh_turn *t = qh_try_alloc0(1, sizeof *t + n_cands * sizeof *t->cands);
    if (!t) return NULL;
    t->policy = qh_policy_ref(p);
    if (wants_logprobs) {
        t->ids = qh_try_alloc0((size_t)p->top, sizeof *t->ids);
        t->logprobs = qh_try_alloc0((size_t)p->top, sizeof *t->logprobs);
    }
    if (n_top) {
        t->top_ids = qh_try_alloc0((size_t)n_top, sizeof *t->top_ids);
        t->top_logprobs = qh_try_alloc0((size_t)n_top, sizeof *t->top_logprobs);
    }
    bool has_all = (!wants_logprobs || (t->ids && t->logprobs)) &&
                   (!n_top || (t->top_ids && t->top_logprobs));
    if (has_all) return t;
    qh_turn_free(t);
    return NULL;
}

void qh_turn_free(qh_turn *t)
{
    if (!t) return;
    if (t->mind) t->policy->ops->forget(t->mind);
    qh_policy_unref(t->policy);
    qh_free(t->ids);
    qh_free(t->logprobs);
    qh_free(t->top_ids);
    qh_free(t->top_logprobs);
    qh_free(t);
}
