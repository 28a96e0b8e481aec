/* reload.c - the story of an app's loads, told in the log and by GET /qhost/reload: which
 * generations are alive and what holds them, what the last load changed, why one failed. */
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "lua/lua_private.h"
#include "lua/vm/source.h"
#include <stdlib.h>
#include <string.h>

enum { EXCERPT_BEFORE = 2, EXCERPT_AFTER = 1, EXCERPT_LINE_BYTES = 160 };

static double now_s(void) { return (double)qh_wall_us() / 1e6; }

void qh_load_story_deinit(qh_load_story *s)
{
    qh_free(s->message);
    qh_free(s->file);
    qh_free(s->excerpt);
    qh_str_deinit(&s->added);
    qh_str_deinit(&s->removed);
    qh_str_deinit(&s->changed);
    *s = (qh_load_story){0};
}

/* ---- who holds the generations ---- */

static void append_count(qh_str *out, int n, const char *what, bool *is_first)
{
    if (!n) return;
    qh_str_appendf(out, "%s%d %s%s", *is_first ? "" : ", ", n, what, n == 1 ? "" : "s");
    *is_first = false;
}

/* "gen 7: 2 streams", "gen 8: 3 streams, 1 request"; nothing when nothing holds it. */
static void append_holders(qh_str *out, const qh_app *app)
{
    int n_requests, n_streams = qh_requests_count(app, &n_requests);
    bool is_first = true;
    if (!app->n_requests) return;
    if (out->len) qh_str_append_z(out, "; ");
    qh_str_appendf(out, "gen %d: ", app->number);
    append_count(out, n_streams, "stream", &is_first);
    append_count(out, n_requests - n_streams, "request", &is_first);
    append_count(out, app->n_requests - n_requests, "background task", &is_first);
}

/* Of those that have been replaced. */
static void append_old_holders(qh_str *out, const qh_lua *lua)
{
    for (const qh_app *a = lua->apps; a; a = a->next)
        if (a->is_retired) append_holders(out, a);
}

void qh_reload_note_pending(qh_lua *lua)
{
    qh_str holders = {0};
    append_old_holders(&holders, lua);
    lua->pending_since = now_s();
    qh_warn("app.pending", "a change waits until an old generation has ended its requests: \"%s\"",
            qh_str_z(&holders));
    qh_str_deinit(&holders);
}

/* ---- a load that worked ---- */

static void add_name(qh_str *list, const char *name)
{
    if (list->len) qh_str_append_z(list, ", ");
    qh_str_append_json(list, name, strlen(name));
}

static void add_difference(void *arg, char mark, const char *name)
{
    qh_load_story *s = arg;
    add_name(mark == '+' ? &s->added : mark == '-' ? &s->removed : &s->changed, name);
}

/* key="a, b": names in the log have no quotes of their own, the line's do. */
static void append_logged(qh_str *out, const char *key, const qh_str *list)
{
    if (!list->len) return;
    qh_str_appendf(out, " %s=\"", key);
    for (size_t i = 0; i < list->len; i++)
        if (list->data[i] != '"') qh_str_append_c(out, list->data[i]);
    qh_str_append_c(out, '"');
}

void qh_reload_note_ok(qh_lua *lua, qh_app *app, const qh_app *old)
{
    qh_load_story *s = &lua->last_ok;
    qh_load_story_deinit(s);
    s->generation = app->number;
    s->at = now_s();
    s->ms = (double)(qh_now_us() - app->start_us) / 1e3;
    lua->is_failed = false;
    if (old) qh_parts_compare(&old->parts, &app->parts, add_difference, s);
    qh_str line = {0};
    append_logged(&line, "added", &s->added);
    append_logged(&line, "removed", &s->removed);
    append_logged(&line, "changed", &s->changed);
    int n_routes = 0;
    for (int i = 0; i < app->parts.n; i++) n_routes += app->parts.items[i].kind == QH_PART_ROUTE;
    for (int i = 0; i < app->n_models; i++)
        qh_str_appendf(&line, "%s%s", i ? "," : " models=", app->models[i]->name);
    qh_info("app.loaded", "gen=%d ms=%.1f routes=%d%s", app->number, s->ms, n_routes,
            qh_str_z(&line));
    qh_str_deinit(&line);
}

/* ---- a load that failed ---- */

/* "app.lua:12: message" -> the file's source, if it is one of ours; *line. */
static const qh_source *place_of(const qh_app *app, const char *message, int *line)
{
    for (const char *colon = strchr(message, ':'); colon; colon = strchr(colon + 1, ':')) {
        char *end;
        long n = strtol(colon + 1, &end, 10);
        if (end == colon + 1 || *end != ':' || n < 1 || n > 1 << 20) continue;
        *line = (int)n;
        return qh_source_find(app->vm, message, (size_t)(colon - message));
    }
    return NULL;
}

static char *excerpt_of(const qh_source *source, int line)
{
    qh_str out = {0};
    for (int n = line - EXCERPT_BEFORE; n <= line + EXCERPT_AFTER; n++) {
        qh_slice text = n > 0 ? qh_source_lines(source, n, n) : (qh_slice){"", 0};
        if (!text.len) continue;
        size_t len = text.len - (text.data[text.len - 1] == '\n');
        int shown = (int)(len < EXCERPT_LINE_BYTES ? len : EXCERPT_LINE_BYTES);
        qh_str_appendf(&out, "%c %4d | %.*s\n", n == line ? '>' : ' ', n, shown, text.data);
    }
    return qh_str_steal(&out);
}

/* The line itself, without what surrounds it, for the log. */
static void append_line(qh_str *out, const qh_source *source, int line)
{
    qh_slice text = qh_source_lines(source, line, line);
    while (text.len && strchr(" \t", *text.data)) text.data++, text.len--;
    while (text.len && strchr("\r\n", text.data[text.len - 1])) text.len--;
    int shown = (int)(text.len < EXCERPT_LINE_BYTES ? text.len : EXCERPT_LINE_BYTES);
    if (shown) qh_str_appendf(out, " line=\"%.*s\"", shown, text.data);
}

void qh_reload_note_failure(qh_lua *lua, const qh_app *app, const char *message)
{
    qh_load_story *s = &lua->last_failure;
    qh_load_story_deinit(s);
    s->generation = app ? app->number : lua->last_generation;
    s->at = now_s();
    s->message = qh_strdup(message);
    lua->is_failed = true;
    qh_str line = {0};
    const qh_source *source = app ? place_of(app, message, &s->line) : NULL;
    if (source) {
        s->file = qh_strdup(source->name);
        s->excerpt = excerpt_of(source, s->line);
        append_line(&line, source, s->line);
    } else {
        s->line = 0;
    }
    qh_error("app.failed", "gen=%d serving=%d error=\"%s\"%s", s->generation,
             lua->serving ? lua->serving->number : 0, message, qh_str_z(&line));
    qh_str_deinit(&line);
}

/* ---- GET /qhost/reload ---- */

static void append_text(qh_str *out, const char *key, const char *text)
{
    qh_str_appendf(out, ",\"%s\":", key);
    if (text) qh_str_append_json(out, text, strlen(text));
    else qh_str_append_z(out, "null");
}

static void append_generations(qh_str *out, const qh_lua *lua)
{
    bool is_first = true;
    qh_str_append_z(out, ",\"generations\":[");
    for (const qh_app *a = lua->apps; a; a = a->next) {
        const char *state = a == lua->serving ? "serving" : a == lua->loading ? "loading" : "retired";
        qh_str holders = {0};
        int n_requests, n_streams = qh_requests_count(a, &n_requests);
        append_holders(&holders, a);
        qh_str_appendf(out, "%s{\"generation\":%d,\"state\":\"%s\",\"requests\":%d,\"streams\":%d",
                       is_first ? "" : ",", a->number, state, n_requests, n_streams);
        append_text(out, "holders", holders.len ? qh_str_z(&holders) : NULL);
        qh_str_append_c(out, '}');
        qh_str_deinit(&holders);
        is_first = false;
    }
    qh_str_append_c(out, ']');
}

static void append_pending(qh_str *out, const qh_lua *lua)
{
    qh_str_append_z(out, ",\"pending\":");
    if (!lua->is_load_wanted) {
        qh_str_append_z(out, "null");
        return;
    }
    qh_str holders = {0};
    append_old_holders(&holders, lua);
    qh_str_appendf(out, "{\"since\":%.3f", lua->pending_since);
    append_text(out, "waits_for", qh_str_z(&holders));
    qh_str_append_c(out, '}');
    qh_str_deinit(&holders);
}

static void append_last_load(qh_str *out, const qh_load_story *s)
{
    if (!s->generation) {
        qh_str_append_z(out, ",\"last_load\":null");
        return;
    }
    qh_str_appendf(out, ",\"last_load\":{\"generation\":%d,\"at\":%.3f,\"ms\":%.1f", s->generation,
                   s->at, s->ms);
    qh_str_appendf(out, ",\"added\":[%s],\"removed\":[%s],\"changed\":[%s]}", qh_str_z(&s->added),
                   qh_str_z(&s->removed), qh_str_z(&s->changed));
}

static void append_last_error(qh_str *out, const qh_load_story *s)
{
    qh_str_appendf(out, ",\"last_error\":{\"generation\":%d,\"at\":%.3f", s->generation, s->at);
    append_text(out, "message", s->message);
    append_text(out, "file", s->file);
    if (s->line) qh_str_appendf(out, ",\"line\":%d", s->line);
    else qh_str_append_z(out, ",\"line\":null");
    append_text(out, "excerpt", s->excerpt);
    qh_str_append_c(out, '}');
}

void qh_lua_write_reload(const qh_lua *lua, qh_str *out)
{
    qh_str_appendf(out, "{\"serving\":%d,\"failed\":%s", lua->serving ? lua->serving->number : 0,
                   lua->is_failed ? "true" : "false");
    append_generations(out, lua);
    append_pending(out, lua);
    append_last_load(out, &lua->last_ok);
    if (lua->is_failed) append_last_error(out, &lua->last_failure);
    else qh_str_append_z(out, ",\"last_error\":null");
    qh_str_append_z(out, "}\n");
}
