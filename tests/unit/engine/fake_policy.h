/* fake_policy.h - a policy in C that answers when the test says so.
 *
 * It keeps the turns it was asked until fake_policy_answer. Without an edit it draws as the plain sampler
 * would; an edit changes candidates and temperature first, or sets the verdict. It counts the minds it made
 * and checks that all are forgotten and that nobody refers to it any more. */
#pragma once
#include "engine/policy.h"
#include <stdio.h>
#include <stdlib.h>

enum { FAKE_POLICY_MAX = 512 };

typedef struct fake_policy {
    qh_policy base;
    void (*edit)(qh_turn *t);       /* NULL: none */
    qh_turn *out[FAKE_POLICY_MAX];
    int n_out, max_out;             /* room in its queue */
    int n_minds, n_asked;
    bool is_closed, is_freed;
} fake_policy;

static inline qh_status fake_policy_ask(qh_policy *p, qh_turn *t)
{
    fake_policy *f = (fake_policy *)p;
    if (f->is_closed) return QH_ECLOSED;
    if (f->n_out == f->max_out) return QH_AGAIN;
    f->out[f->n_out++] = t;
    f->n_asked++;
    return QH_OK;
}

static inline void fake_policy_forget(void *mind) { ((fake_policy *)mind)->n_minds--; }
static inline void fake_policy_free(qh_policy *p) { ((fake_policy *)p)->is_freed = true; }

static const qh_policy_ops FAKE_POLICY_OPS = {fake_policy_ask, fake_policy_forget,
                                              fake_policy_free};

static inline void fake_policy_init(fake_policy *f, int top)
{
    *f = (fake_policy){.base = {.ops = &FAKE_POLICY_OPS, .n_refs = 1, .top = top},
                       .max_out = FAKE_POLICY_MAX};
}

/* The test gives its reference back; everybody else must have. */
static inline void fake_policy_deinit(fake_policy *f)
{
    qh_policy_unref(&f->base);
    if (f->is_freed && f->n_minds == 0 && f->n_out == 0) return;
    fprintf(stderr, "fake policy: freed %d, %d minds, %d turns\n", f->is_freed, f->n_minds,
            f->n_out);
    abort();
}

static inline void fake_policy_answer(fake_policy *f, int i)
{
    qh_turn *t = f->out[i];
    f->out[i] = f->out[--f->n_out];
    if (!t->mind) t->mind = f, f->n_minds++;
    t->verdict = QH_TURN_TOKEN;
    if (f->edit) f->edit(t);
    if (t->verdict == QH_TURN_TOKEN || t->verdict == QH_TURN_STOP)
        t->token = qh_race_list(t->cands, t->n, t->max, t->temperature, &t->noise);
    t->home(t->home_arg, t);
}
