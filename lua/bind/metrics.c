/* metrics.c - metrics of scripts: qh.metrics. They are on /metrics as qhost_app_<name>.
 *
 * A series is never freed, so their number is bounded: beyond it samples are dropped, and counted. */
#include "base/mem.h"
#include "base/metric.h"
#include "lua/bind/bind.h"
#include "lua/vm/module.h"
#include <lauxlib.h>
#include <math.h>
#include <string.h>

enum { MAX_SERIES = 1000, MAX_NAME_BYTES = 60, MAX_LABELS_BYTES = 600 };
static const char *const KINDS[] = {"count", "gauge", "observe"};
static const char HELP[] = "a metric of the app";

typedef struct series {
    struct series *next;
    char *name, *labels;
    int kind;
    qh_metric *metric;
} series;

static series *all;             /* metrics are the process's */
static int n_series;

static bool is_name(const char *s, size_t len)
{
    return len && len <= MAX_NAME_BYTES && *s >= 'a' && *s <= 'z' &&
           strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == len;
}

static const double *default_bounds(int *n)
{
    static const double BOUNDS[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
    *n = (int)(sizeof BOUNDS / sizeof *BOUNDS);
    return BOUNDS;
}

static qh_metric *metric_new(int kind, const char *name, const char *labels)
{
    int n;
    const double *bounds = default_bounds(&n);
    if (kind == 0) return qh_metric_counter(name, labels, HELP);
    if (kind == 1) return qh_metric_gauge(name, labels, HELP);
    return qh_metric_histogram(name, labels, HELP, bounds, n);
}

/* NULL: there are too many. Raises when the name is of another kind. */
static qh_metric *find_or_add(lua_State *L, int kind, const char *name, const char *labels)
{
    for (series *s = all; s; s = s->next) {
        if (strcmp(s->name, name) != 0) continue;
        if (s->kind != kind)
            luaL_error(L, "qh.metrics.%s: '%s' is used with qh.metrics.%s", KINDS[kind], name + strlen("qhost_app_"),
                       KINDS[s->kind]);
        if (strcmp(s->labels, labels) == 0) return s->metric;
    }
    if (n_series == MAX_SERIES) return NULL;
    series *s = qh_new0(series);
    s->name = qh_strdup(name);
    s->labels = qh_strdup(labels);
    s->kind = kind;
    s->metric = metric_new(kind, s->name, *labels ? s->labels : NULL);
    s->next = all;
    all = s;
    n_series++;
    return s->metric;
}

/* record(kind, name, value, labels): labels as Prometheus writes them, or "" -> whether it was kept */
static int record(lua_State *L)
{
    int kind = luaL_checkoption(L, 1, NULL, KINDS);
    size_t len, labels_len;
    const char *name = luaL_checklstring(L, 2, &len), *labels = luaL_checklstring(L, 4, &labels_len);
    lua_Number v = luaL_checknumber(L, 3);
    if (!is_name(name, len))
        return luaL_error(L, "qh.metrics.%s: a name is up to %d small letters, digits and '_', a letter first",
                          KINDS[kind], MAX_NAME_BYTES);
    if (labels_len > MAX_LABELS_BYTES) return luaL_error(L, "qh.metrics.%s: the labels are too long", KINDS[kind]);
    if (!isfinite(v) || fabs(v) > 9e15 || (kind == 0 && v < 0))
        return luaL_error(L, "qh.metrics.%s: '%s': %f is no value", KINDS[kind], name, v);
    lua_pushfstring(L, "qhost_app_%s", name);
    qh_metric *m = find_or_add(L, kind, lua_tostring(L, -1), labels);
    if (!m) {
        static const char DROPPED[] = "qhost_app_samples_dropped_total";
        qh_metric_add(qh_metric_counter(DROPPED, NULL, "samples of app metrics beyond 1000 series"), 1);
    } else if (kind == 0) {
        qh_metric_add(m, (int64_t)v);
    } else if (kind == 1) {
        qh_metric_set(m, (int64_t)llround(v));
    } else {
        qh_metric_observe(m, v);
    }
    lua_pushboolean(L, m != NULL);
    return 1;
}

void qh_bind_metrics(lua_State *L)
{
    static const luaL_Reg FUNCTIONS[] = {{"record", record}, {NULL, NULL}};
    luaL_newlib(L, FUNCTIONS);
    qh_module_bind(L, "metrics");
}
