/* gate.c - see gate.h */
#include "host/gate.h"
#include "base/metric.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char *const STATE_NAMES[] = {"loading", "ok", "draining", "failed"};

static void reply_text(qh_exchange *x, int code, const char *type, const char *body, size_t len)
{
    qh_http_field fields[] = {{"Content-Type", type}, {"Cache-Control", "no-store"}};
    qh_exchange_reply(x, code, fields, 2, body, len);
    qh_exchange_unref(x);
}

static void reply_health(const qh_gate *g, qh_exchange *x)
{
    char body[64];
    int n = snprintf(body, sizeof body, "{\"status\":\"%s\"}\n", STATE_NAMES[g->state]);
    reply_text(x, g->state == QH_GATE_READY ? 200 : 503, "application/json", body, (size_t)n);
}

static void reply_metrics(qh_exchange *x)
{
    qh_str out = {0};
    qh_metric_write(&out);
    reply_text(x, 200, "text/plain; version=0.0.4; charset=utf-8", qh_str_z(&out), out.len);
    qh_str_deinit(&out);
}

static void reply_reload(const qh_gate *g, qh_exchange *x)
{
    qh_str out = {0};
    qh_lua_write_reload(g->lua, &out);
    reply_text(x, 200, "application/json", qh_str_z(&out), out.len);
    qh_str_deinit(&out);
}

/* Time depends on the length of what was sent only, never on how much of it is right. */
static bool same_secret(const char *got, const char *want)
{
    size_t n_got = strlen(got), n_want = strlen(want);
    unsigned char diff = n_got != n_want;
    for (size_t i = 0; i < n_got; i++) diff |= (unsigned char)(got[i] ^ want[n_want ? i % n_want : 0]);
    return diff == 0;
}

static bool has_key(const char *key, const qh_exchange *x)
{
    const char *value = qh_exchange_header(x, "authorization");
    if (!value || strncasecmp(value, "Bearer ", 7) != 0) return false;
    value += 7;
    while (*value == ' ') value++;
    return same_secret(value, key);
}

static void refuse_key(qh_exchange *x, const char *message)
{
    qh_http_field field = {"WWW-Authenticate", "Bearer"};
    qh_exchange_reply_error(x, 401, "invalid_api_key", message, &field, 1);
    qh_exchange_unref(x);
}

static void refuse_exposed(qh_exchange *x)
{
    qh_exchange_reply_error(x, 403, "admin_key_needed",
                            "this service listens to other machines and was started without an admin key", NULL, 0);
    qh_exchange_unref(x);
}

static void refuse_state(const qh_gate *g, qh_exchange *x)
{
    char text[64];
    snprintf(text, sizeof text, "the service is %s", g->state == QH_GATE_FAILED ? "out of order" : STATE_NAMES[g->state]);
    qh_http_field fields[] = {{"Retry-After", "1"}, {"X-Should-Retry", "true"}};
    qh_exchange_reply_error(x, 503, "not_ready", text, fields, 2);
    qh_exchange_unref(x);
}

static bool is_read(const qh_exchange *x)
{
    const char *m = qh_exchange_method(x);
    return strcmp(m, "GET") == 0 || strcmp(m, "HEAD") == 0;
}

static bool is_admin_path(const char *path)
{
    return strcmp(path, "/metrics") == 0 || strncmp(path, "/qhost/", 7) == 0;
}

/* True: x was refused. */
static bool refuses(const qh_gate *g, qh_exchange *x, bool is_admin)
{
    static const char ASK[] = "a valid API key is needed: Authorization: Bearer KEY";
    static const char ASK_ADMIN[] = "the admin key is needed: Authorization: Bearer KEY";
    if (is_admin && g->admin_key) {
        if (has_key(g->admin_key, x)) return false;
        refuse_key(x, ASK_ADMIN);
    } else if (is_admin && g->is_exposed) {
        refuse_exposed(x);
    } else if (g->api_key && !has_key(g->api_key, x) && !qh_lua_takes_preflight(g->lua, x)) {
        refuse_key(x, ASK);
    } else {
        return false;
    }
    return true;
}

bool qh_gate_answers(const qh_gate *g, qh_exchange *x)
{
    const char *path = qh_exchange_path(x);
    if (is_read(x) && strcmp(path, "/health") == 0) return reply_health(g, x), true;
    if (refuses(g, x, is_admin_path(path))) return true;
    if (is_read(x) && strcmp(path, "/metrics") == 0) return reply_metrics(x), true;
    if (is_read(x) && strcmp(path, "/qhost/reload") == 0) return reply_reload(g, x), true;
    if (g->state == QH_GATE_LOADING || g->state == QH_GATE_FAILED) return refuse_state(g, x), true;
    return false;
}

bool qh_gate_is_loopback(const char *host)
{
    unsigned a, b, c, d;
    char rest;
    if (strcasecmp(host, "localhost") == 0 || strcmp(host, "::1") == 0) return true;
    return sscanf(host, "%u.%u.%u.%u%c", &a, &b, &c, &d, &rest) == 4 && a == 127 && b < 256 && c < 256 && d < 256;
}
