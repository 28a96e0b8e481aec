/* policies.c - see policies.h */
#include "lua/policies.h"
#include "base/log.h"
#include "base/mbox.h"
#include "base/mem.h"
#include "base/thread.h"
#include "lua/vm/mind.h"
#include <stdio.h>

enum { MAX_TURNS = 4096 };      /* in the mailbox; more wait at their engines */

struct qh_policies {
    _Atomic int n_refs;         /* the host's, and one of each bound policy */
    qh_mbox *turns;
    qh_thread *thread;
};

struct qh_policy_module {
    _Atomic int n_refs;
    qh_mind_module mind;        /* its strings owned, its code compiled */
    int top;
};

typedef struct {
    qh_policy base;
    qh_policies *owner;
    qh_policy_module *module;
    json_t *params;
} bound;

/* ---- the policy thread ---- */

static void refuse(qh_turn *t, qh_status st, const qh_err *err)
{
    t->verdict = st == QH_ETIMEDOUT ? QH_TURN_TIMED_OUT : QH_TURN_FAILED;
    snprintf(t->message, sizeof t->message, "%s", err->msg);
}

static void take_turn(qh_turn *t, qh_budget *budget)
{
    const bound *b = (const bound *)t->policy;
    qh_err err = {0};
    qh_mind *mind = t->mind;
    qh_status st = QH_OK;
    if (!mind) st = qh_mind_new(&mind, &b->module->mind, t, b->params, budget, &err);
    t->mind = mind;
    if (st) refuse(t, st, &err);
    else qh_mind_take_turn(mind, t, budget);
    if (t->verdict == QH_TURN_FAILED || t->verdict == QH_TURN_TIMED_OUT)
        qh_warn("policy.failed", "policy=%s tokens=%d error=\"%s\"", b->module->mind.name, t->n_out,
                t->message);
    t->home(t->home_arg, t);
}

static void refuse_all(qh_policies *p, const qh_err *err)
{
    qh_turn *t;
    while (qh_mbox_wait(p->turns, -1) == QH_OK)
        while (!qh_mbox_take(p->turns, &t)) {
            refuse(t, err->status, err);
            t->home(t->home_arg, t);
        }
}

static void run(void *arg)
{
    qh_policies *p = arg;
    qh_budget *budget;
    qh_turn *t;
    qh_err err = {0};
    if (qh_budget_new(&budget, &err)) {
        qh_error("policy.no_watchdog", "error=\"%s\"", err.msg);
        refuse_all(p, &err);
        return;
    }
    while (qh_mbox_wait(p->turns, -1) == QH_OK)         /* a closed mailbox is emptied first */
        while (!qh_mbox_take(p->turns, &t)) take_turn(t, budget);
    qh_budget_free(budget);
}

/* ---- modules ---- */

static qh_status check_range(const char *name, const char *field, int v, int max, qh_err *err)
{
    if (v >= 1 && v <= max) return QH_OK;
    return qh_fail(err, QH_EINVAL, "policy '%s': %s is %d, expected 1 to %d", name, field, v, max);
}

qh_status qh_policy_module_new(qh_policy_module **out, const qh_policy_spec *s, qh_err *err)
{
    *out = NULL;
    qh_status st = check_range(s->name, "top", s->top, QH_POLICY_MAX_TOP, err);
    if (!st) st = check_range(s->name, "budget_us", s->budget_us, QH_POLICY_MAX_BUDGET_US, err);
    if (st) return st;
    const qh_mind_module source = {.name = s->name, .chunk = s->chunk, .code = s->text,
                                   .len_bytes = s->len_bytes, .budget_us = s->budget_us};
    qh_policy_module *m = qh_new0(qh_policy_module);
    m->n_refs = 1;
    m->top = s->top;
    m->mind = source;
    void *code;
    st = qh_mind_compile(&source, &code, &m->mind.len_bytes, err);
    if (st) {
        qh_free(m);
        return st;
    }
    m->mind.code = code;
    m->mind.name = qh_strdup(s->name);
    m->mind.chunk = qh_strdup(s->chunk);
    *out = m;
    return QH_OK;
}

void qh_policy_module_unref(qh_policy_module *m)
{
    if (!m || atomic_fetch_sub(&m->n_refs, 1) != 1) return;
    qh_free((void *)m->mind.code);
    qh_free((char *)m->mind.name);
    qh_free((char *)m->mind.chunk);
    qh_free(m);
}

/* ---- the thread's life ---- */

static void unref(qh_policies *p)
{
    if (atomic_fetch_sub(&p->n_refs, 1) != 1) return;
    qh_mbox_free(p->turns);
    qh_free(p);
}

qh_status qh_policies_new(qh_policies **out, qh_err *err)
{
    *out = NULL;
    qh_policies *p = qh_new0(qh_policies);
    p->n_refs = 1;
    qh_status st = qh_mbox_new(&p->turns, sizeof(qh_turn *), MAX_TURNS, (qh_wakeup){0}, err);
    if (!st) st = qh_thread_start(&p->thread, "qh-policies", run, p, err);
    if (st) unref(p);
    else *out = p;
    return st;
}

void qh_policies_close(qh_policies *p)
{
    if (!p) return;
    qh_mbox_close(p->turns);
    qh_thread_join(p->thread);
    unref(p);
}

/* ---- bound to a job ---- */

static qh_status bound_ask(qh_policy *p, qh_turn *t)
{
    return qh_mbox_put(((bound *)p)->owner->turns, &t);
}

static void bound_forget(void *mind) { qh_mind_free(mind); }

static void bound_free(qh_policy *p)
{
    bound *b = (bound *)p;
    json_decref(b->params);
    qh_policy_module_unref(b->module);
    unref(b->owner);
    qh_free(b);
}

qh_policy *qh_policies_bind(qh_policies *p, qh_policy_module *m, json_t *params)
{
    static const qh_policy_ops OPS = {bound_ask, bound_forget, bound_free};
    bound *b = qh_new0(bound);
    b->base = (qh_policy){.ops = &OPS, .n_refs = 1, .top = m->top};
    atomic_fetch_add(&p->n_refs, 1);
    atomic_fetch_add(&m->n_refs, 1);
    b->owner = p;
    b->module = m;
    b->params = params;
    return &b->base;
}
