/* egress.c - see egress.h */
#include "net/egress.h"
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_HOST_BYTES = 253 };

bool qh_egress_is_loopback(const char *host)
{
    struct in_addr a;
    if (!strcasecmp(host, "localhost") || !strcmp(host, "[::1]")) return true;
    return inet_pton(AF_INET, host, &a) == 1 && ntohl(a.s_addr) >> 24 == 127;
}

/* The host's length; *port: NULL when the rule has none. */
static size_t split(const char *rule, const char **port)
{
    const char *end = *rule == '[' ? strchr(rule, ']') : NULL;
    const char *colon = strchr(end ? end : rule, ':');
    *port = colon ? colon + 1 : NULL;
    return colon ? (size_t)(colon - rule) : strlen(rule);
}

static bool is_host(const char *s, size_t len)
{
    struct in6_addr a;
    char text[INET6_ADDRSTRLEN];
    if (*s == '[') {
        if (len < 4 || s[len - 1] != ']' || len - 2 >= sizeof text) return false;
        memcpy(text, s + 1, len - 2);
        text[len - 2] = 0;
        return inet_pton(AF_INET6, text, &a) == 1;
    }
    if (len == 1 && *s == '*') return true;
    if (len > 2 && !memcmp(s, "*.", 2)) s += 2, len -= 2;
    if (!len || len > MAX_HOST_BYTES || *s == '.' || *s == '-') return false;
    return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") >= len;
}

qh_status qh_egress_check_rule(const char *rule, qh_err *err)
{
    const char *port;
    size_t len = split(rule, &port);
    if (!is_host(rule, len))
        return qh_fail(err, QH_EINVAL, "'%s' is no host: a name, an address, *.example.com or *, and perhaps :PORT", rule);
    if (!port) return QH_OK;
    char *end;
    long n = strtol(port, &end, 10);
    if (*port < '0' || *port > '9' || *end || n < 1 || n > 65535)
        return qh_fail(err, QH_EINVAL, "'%s': the port is no number from 1 to 65535", rule);
    return QH_OK;
}

static bool matches(const char *rule, const char *host, int port)
{
    const char *only;
    size_t len = split(rule, &only), host_len = strlen(host);
    if (only && atoi(only) != port) return false;
    if (len == 1 && *rule == '*') return true;
    if (len > 2 && !memcmp(rule, "*.", 2)) {
        rule++, len--;                          /* ".example.com", and something before it */
        return host_len > len && !strncasecmp(host + host_len - len, rule, len);
    }
    return host_len == len && !strncasecmp(host, rule, len);
}

qh_status qh_egress_allow(const qh_egress *e, const char *host, int port, qh_err *err)
{
    if (qh_egress_is_loopback(host)) return QH_OK;
    for (int i = 0; i < e->n_rules; i++)
        if (matches(e->rules[i], host, port)) return QH_OK;
    return qh_fail(err, QH_EACCES, "%s is not a host that scripts may reach: start qhost with --allow-net %s",
                   host, host);
}
