/* egress.h - which hosts scripts may reach: loopback always, others by the operator's word.
 *
 * A rule is HOST or HOST:PORT, where HOST is a name, an address ("[::1]" for IPv6), "*.example.com" for
 * every name below example.com, or "*" for all. Names are compared as written in the URL, not what
 * they resolve to; loopback means localhost, 127.0.0.0/8 and [::1]. Thread: any. */
#pragma once
#include "base/err.h"

typedef struct {
    const char *const *rules;   /* borrowed */
    int n_rules;
} qh_egress;

/* QH_EINVAL: it could never match; err says why. */
qh_status qh_egress_check_rule(const char *rule, qh_err *err);
/* QH_EACCES: no rule matches. host as in a URL, IPv6 in brackets. */
qh_status qh_egress_allow(const qh_egress *e, const char *host, int port, qh_err *err);
bool      qh_egress_is_loopback(const char *host);
