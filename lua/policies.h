/* policies.h - the thread of sampling policies, and the policies that engines are given.
 *
 *   loop thread                     engine threads              policy thread
 *   qh_policies_bind(module,params) -> job
 *                                   ask(turn) -- bounded mbox -> the sequence's mind takes it
 *                                   turn->home() <-------------- answered, always
 *
 * A module is one version of a policy's file. It lives as long as anybody holds it: the generation of the
 * app that loaded it, and each sequence that began with it. The minds of its sequences (vm/mind.h) are
 * made and used on the policy thread, and closed wherever the sequence ends.
 * Thread: as each function says. */
#pragma once
#include "engine/policy.h"
#include <jansson.h>

typedef struct qh_policies qh_policies;
typedef struct qh_policy_module qh_policy_module;

/* Starts the thread. Loop thread. */
qh_status qh_policies_new(qh_policies **out, qh_err *err);
/* Answers what was asked, then ends the thread; who asks later gets QH_ECLOSED. Policies that were bound
 * may outlive it. Loop thread. NULL is fine. */
void      qh_policies_close(qh_policies *p);

typedef struct {
    const char *name;           /* "cautious"; copied, like the others */
    const char *chunk;          /* "@policies/cautious.lua" */
    const char *text;
    size_t len_bytes;
    int top;                    /* candidates, 1 .. QH_POLICY_MAX_TOP */
    int budget_us;              /* of CPU a call, 1 .. QH_POLICY_MAX_BUDGET_US */
} qh_policy_spec;
enum { QH_POLICY_MAX_BUDGET_US = 10000 };

/* One reference. QH_EINVAL: a number out of range. QH_ESCRIPT: the text does not compile. Any thread. */
qh_status qh_policy_module_new(qh_policy_module **out, const qh_policy_spec *spec, qh_err *err);
void      qh_policy_module_unref(qh_policy_module *m);      /* NULL is fine. Any thread */

/* The policy for one job: one reference, to be given to its qh_gen. params: an object, taken. */
qh_policy *qh_policies_bind(qh_policies *p, qh_policy_module *m, json_t *params_adopt);
