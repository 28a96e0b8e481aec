/* exchange.c - see conn.h and server.h */
#include "net/conn.h"
#include "net/http_text.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { FIRST_BODY_BYTES = 4096, LOGGED_TARGET_BYTES = 256, CLIENT_CLOSED_REQUEST = 499 };

/* ---- life ---- */

qh_exchange *exchange_new(qh_conn *c)
{
    qh_server *s = c->server;
    qh_exchange *x = qh_new0(qh_exchange);
    x->n_refs = 1;
    x->conn = c;
    x->head = qh_http1_take_head(&c->parser);
    /* The mix is a bijection: no two ids of a process are alike, and none tells the next one. */
    snprintf(x->id, sizeof x->id, "req_%016llx",
             (unsigned long long)qh_hash_mix(s->id_seed + (uint64_t)s->n_requests));
    snprintf(x->peer, sizeof x->peer, "%s", c->peer);
    x->is_tls = c->tls != NULL;
    x->start_us = qh_now_us();
    s->n_exchanges++;
    return x;
}

static void exchange_free(qh_exchange *x)
{
    qh_http1_head_deinit(&x->head);
    qh_str_deinit(&x->tags);
    qh_str_deinit(&x->fields);
    qh_free(x->body);
    qh_free(x);
}

/* A value in double quotes; the log writer itself hides control bytes. */
static void append_quoted(qh_str *out, const char *s, size_t max_bytes)
{
    qh_str_append_c(out, '"');
    for (size_t i = 0; s[i] && i < max_bytes; i++) {
        if (s[i] == '"' || s[i] == '\\') qh_str_append_c(out, '\\');
        qh_str_append_c(out, s[i]);
    }
    qh_str_append_c(out, '"');
}

static void log_access(const qh_exchange *x, qh_status why)
{
    int64_t now_us = qh_now_us();
    qh_str line = {0};
    qh_str_appendf(&line, "id=%s peer=%s method=%s target=", x->id, x->peer, x->head.method);
    append_quoted(&line, x->head.target, LOGGED_TARGET_BYTES);
    qh_str_appendf(&line, " status=%d bytes=%lld body=%lld ms=%.3f", x->http_status, (long long)x->n_reply_bytes,
                   (long long)x->n_body_bytes, (double)(now_us - x->start_us) / 1e3);
    if (x->first_byte_us)
        qh_str_appendf(&line, " first_ms=%.3f", (double)(x->first_byte_us - x->start_us) / 1e3);
    if (why) qh_str_appendf(&line, " why=%s", qh_status_name(why));
    qh_info("http.access", "%s%s", qh_str_z(&line), qh_str_z(&x->tags));
    qh_str_deinit(&line);
}

void exchange_close(qh_exchange *x, qh_status why)
{
    qh_server *s = x->conn->server;
    x->conn = NULL;
    x->is_closed = true;
    if (!x->http_status) x->http_status = CLIENT_CLOSED_REQUEST;
    s->n_exchanges--;
    s->n_body_bytes -= (int64_t)x->body_cap;
    server_count_reply(s, x->http_status);
    if (!s->opts.no_access_log) log_access(x, why);
    if (!x->n_refs) exchange_free(x);
    else if (x->ops) x->ops->on_close(x->user, why);
}

void qh_exchange_ref(qh_exchange *x) { x->n_refs++; }

void qh_exchange_unref(qh_exchange *x)
{
    if (!x || --x->n_refs) return;
    if (x->is_closed) {
        exchange_free(x);
        return;
    }
    x->ops = NULL;              /* nobody is left to be told */
    x->on_body = NULL;
    x->on_piece = NULL;
    if (x->reply == REPLY_NONE) qh_exchange_reply_error(x, 500, "no_reply", "the handler gave no reply", NULL, 0);
    else if (x->reply == REPLY_STREAM) qh_exchange_abort(x);
}

/* ---- the request ---- */

const char *qh_exchange_method(const qh_exchange *x) { return x->head.method; }
const char *qh_exchange_target(const qh_exchange *x) { return x->head.target; }
const char *qh_exchange_path(const qh_exchange *x) { return x->head.path; }
const char *qh_exchange_query(const qh_exchange *x) { return x->head.query; }
int qh_exchange_version(const qh_exchange *x) { return x->head.version; }
const char *qh_exchange_peer(const qh_exchange *x) { return x->peer; }
bool qh_exchange_is_tls(const qh_exchange *x) { return x->is_tls; }
const char *qh_exchange_id(const qh_exchange *x) { return x->id; }
int64_t qh_exchange_start_us(const qh_exchange *x) { return x->start_us; }
int qh_exchange_n_headers(const qh_exchange *x) { return x->head.n_fields; }
int64_t qh_exchange_body_length(const qh_exchange *x) { return x->head.body_len_bytes; }
bool qh_exchange_is_closed(const qh_exchange *x) { return x->is_closed; }
bool qh_exchange_is_begun(const qh_exchange *x) { return x->reply != REPLY_NONE; }
void *qh_exchange_user(const qh_exchange *x) { return x->user; }

qh_http_field qh_exchange_header_at(const qh_exchange *x, int i)
{
    qh_assert(i >= 0 && i < x->head.n_fields);
    return x->head.fields[i];
}

const char *qh_exchange_header(const qh_exchange *x, const char *name)
{
    return qh_http1_head_get(&x->head, name);
}

void qh_exchange_watch(qh_exchange *x, const qh_exchange_ops *ops, void *user)
{
    x->ops = ops;
    x->user = user;
}

void qh_exchange_tag(qh_exchange *x, const char *key, const char *value)
{
    qh_str_appendf(&x->tags, " %s=", key);
    append_quoted(&x->tags, value, LOGGED_TARGET_BYTES);
}

void qh_exchange_add_field(qh_exchange *x, const char *name, const char *value)
{
    if (x->reply == REPLY_NONE) qh_str_appendf(&x->fields, "%s: %s\r\n", name, value);
}

/* ---- the body ---- */

qh_status exchange_check_body(const qh_exchange *x)
{
    if (x->head.has_coding) return QH_EUNSUPPORTED;
    return x->head.body_len_bytes > x->max_body_bytes ? QH_ELIMIT : QH_OK;
}

static qh_status ask_body(qh_exchange *x, body_mode mode, int64_t max_bytes)
{
    if (x->body_mode != BODY_UNASKED) return QH_EINVAL;
    x->body_mode = mode;
    if (x->is_closed) return QH_ECLOSED;
    qh_conn *c = x->conn;
    x->max_body_bytes = max_bytes ? max_bytes : c->server->opts.limits.max_body_bytes;
    x->body_start_us = qh_now_us();
    /* A client that sent some of the body already does not wait for the 100. */
    if (x->head.has_expect && !x->is_body_done && !c->ahead.len && !c->in_len && x->reply == REPLY_NONE &&
        !exchange_check_body(x))
        outbuf_append(&c->out, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    conn_mark_dirty(c);
    return QH_OK;
}

qh_status qh_exchange_read_body(qh_exchange *x, int64_t max_bytes, void (*on_body)(void *user))
{
    qh_status st = ask_body(x, BODY_WHOLE, max_bytes);
    if (!st) x->on_body = on_body;
    return st;
}

qh_status qh_exchange_stream_body(qh_exchange *x, int64_t max_bytes,
                                  void (*on_piece)(void *user, const char *data, size_t len_bytes,
                                                   bool is_last))
{
    qh_status st = ask_body(x, BODY_PIECES, max_bytes);
    if (!st) x->on_piece = on_piece;
    return st;
}

const char *qh_exchange_body(const qh_exchange *x, size_t *len_bytes)
{
    bool is_there = x->body && x->is_body_told;
    *len_bytes = is_there ? (size_t)x->n_body_bytes : 0;
    return is_there ? x->body : "";
}

void qh_exchange_pause_body(qh_exchange *x)
{
    if (x->is_body_paused) return;
    x->is_body_paused = true;
    x->pause_start_us = qh_now_us();
}

void qh_exchange_resume_body(qh_exchange *x)
{
    if (!x->is_body_paused) return;
    x->is_body_paused = false;
    x->body_start_us += qh_now_us() - x->pause_start_us;    /* the client is not to blame */
    if (x->conn) conn_mark_dirty(x->conn);
}

/* Memory grows with what came, never with what was announced. */
static qh_status keep_piece(qh_exchange *x, const char *data, size_t len)
{
    qh_server *s = x->conn->server;
    size_t need = (size_t)x->n_body_bytes + len + 1;
    if (need > x->body_cap) {
        size_t cap = x->body_cap ? x->body_cap * 2 : FIRST_BODY_BYTES;
        if (x->head.body_len_bytes >= 0 && cap > (size_t)x->head.body_len_bytes + 1)
            cap = (size_t)x->head.body_len_bytes + 1;
        if (cap < need) cap = need;
        if (s->n_body_bytes + (int64_t)(cap - x->body_cap) > s->opts.limits.max_body_total_bytes) return QH_AGAIN;
        char *grown = qh_try_realloc(x->body, cap, 1);
        if (!grown) return QH_ENOMEM;
        s->n_body_bytes += (int64_t)(cap - x->body_cap);
        x->body = grown;
        x->body_cap = cap;
    }
    memcpy(x->body + x->n_body_bytes, data, len);
    x->body[(size_t)x->n_body_bytes + len] = 0;
    x->n_body_bytes += (int64_t)len;
    return QH_OK;
}

qh_status exchange_take_body(qh_exchange *x, const char *data, size_t len_bytes)
{
    if (x->n_body_bytes + (int64_t)len_bytes > x->max_body_bytes) return QH_ELIMIT;
    if (x->body_mode == BODY_WHOLE) return keep_piece(x, data, len_bytes);
    x->n_body_bytes += (int64_t)len_bytes;
    if (x->on_piece) x->on_piece(x->user, data, len_bytes, false);
    return QH_OK;
}

void exchange_end_body(qh_exchange *x)
{
    if (x->is_body_told || x->is_body_paused || x->body_mode == BODY_UNASKED) return;
    x->is_body_told = true;
    if (x->on_body) x->on_body(x->user);
    else if (x->on_piece) x->on_piece(x->user, "", 0, true);
}

/* ---- the reply's head ---- */

static bool is_ours(const char *name)
{
    static const char *const OURS[] = {"date", "content-length", "transfer-encoding", "connection",
                                       "x-request-id", "keep-alive", "trailer", "upgrade"};
    for (size_t i = 0; i < sizeof OURS / sizeof *OURS; i++)
        if (!strcasecmp(name, OURS[i])) return true;
    return false;
}

static bool is_close(const qh_http_field *f)
{
    return !strcasecmp(f->name, "connection") && !strcasecmp(f->value, "close");
}

static bool are_fields_ok(const qh_http_field *fields, int n)
{
    for (int i = 0; i < n; i++) {
        if (is_close(&fields[i])) continue;
        if (is_ours(fields[i].name) || !qh_http1_is_token(fields[i].name) ||
            !qh_http1_is_field_value(fields[i].value))
            return false;
    }
    return true;
}

/* Whether what is left of the request's body can be skipped cheaply, so that the connection lives. */
static bool can_skip_body(const qh_exchange *x)
{
    if (x->is_body_done) return true;
    if (x->head.has_expect && x->body_mode == BODY_UNASKED) return false;   /* will it come or not? */
    int64_t left = x->head.body_len_bytes - x->n_body_bytes;
    return x->head.body_len_bytes >= 0 && left <= DISCARD_MAX_BYTES;
}

static bool forbids_body(const qh_exchange *x, int http_status)
{
    return !strcmp(x->head.method, "HEAD") || http_status == 204 || http_status == 304;
}

/* Status line and fields; len_bytes -1: not known. */
static void append_head(qh_str *out, qh_exchange *x, int http_status, const qh_http_field *fields,
                        int n_fields, int64_t len_bytes)
{
    qh_conn *c = x->conn;
    x->http_status = http_status;
    x->is_bodyless = forbids_body(x, http_status);
    x->is_last = x->is_last || !x->head.is_keep_alive || c->server->is_draining || !can_skip_body(x);
    for (int i = 0; i < n_fields; i++) x->is_last = x->is_last || is_close(&fields[i]);
    if (len_bytes < 0 && x->head.version == 10 && !x->is_bodyless) x->is_last = true;
    if (!strcmp(x->head.method, "CONNECT")) x->is_last = true;     /* never a tunnel */
    x->is_chunked = len_bytes < 0 && x->head.version == 11 && http_status != 204 && http_status != 304;

    qh_str_appendf(out, "HTTP/1.1 %d %s\r\nDate: %s\r\nX-Request-Id: %s\r\n", http_status,
                   qh_http_reason(http_status), server_date(c->server), x->id);
    if (len_bytes >= 0 && http_status != 204 && http_status != 304)
        qh_str_appendf(out, "Content-Length: %lld\r\n", (long long)len_bytes);
    if (x->is_chunked) qh_str_append_z(out, "Transfer-Encoding: chunked\r\n");
    if (x->is_last) qh_str_append_z(out, "Connection: close\r\n");
    else if (x->head.version == 10) qh_str_append_z(out, "Connection: keep-alive\r\n");
    for (int i = 0; i < n_fields; i++)
        if (!is_close(&fields[i])) qh_str_appendf(out, "%s: %s\r\n", fields[i].name, fields[i].value);
    if (x->fields.len) qh_str_append(out, x->fields.data, x->fields.len);
    qh_str_append_z(out, "\r\n");
}

static qh_status begin(qh_exchange *x, int http_status, const qh_http_field *fields, int n_fields,
                       int64_t len_bytes)
{
    if (x->is_closed) return QH_ECLOSED;
    if (x->reply != REPLY_NONE || http_status < 200 || http_status > 599 || !are_fields_ok(fields, n_fields))
        return QH_EINVAL;
    qh_str head = {0};
    append_head(&head, x, http_status, fields, n_fields, len_bytes);
    qh_status st = outbuf_append(&x->conn->out, head.data, head.len);
    qh_str_deinit(&head);
    if (st) return st;
    x->reply = REPLY_STREAM;
    x->first_byte_us = qh_now_us();
    conn_mark_dirty(x->conn);
    return QH_OK;
}

/* ---- the reply's body ---- */

qh_status qh_exchange_begin(qh_exchange *x, int http_status, const qh_http_field *fields, int n_fields)
{
    return begin(x, http_status, fields, n_fields, -1);
}

qh_status qh_exchange_reply(qh_exchange *x, int http_status, const qh_http_field *fields,
                            int n_fields, const void *body, size_t len_bytes)
{
    qh_status st = begin(x, http_status, fields, n_fields, (int64_t)len_bytes);
    if (st) return st;
    x->reply = REPLY_ENDED;
    if (x->is_bodyless) return QH_OK;
    x->n_reply_bytes = (int64_t)len_bytes;
    st = outbuf_append(&x->conn->out, body, len_bytes);
    if (st) x->is_cut = x->is_last = true;      /* the head promised more than can be kept */
    return st;
}

static qh_status append_chunk(outbuf *out, const void *data, size_t len)
{
    char size_line[24];
    int n = snprintf(size_line, sizeof size_line, "%zx\r\n", len);
    outbuf before = *out;
    qh_status st = outbuf_append(out, size_line, (size_t)n);
    if (!st) st = outbuf_append(out, data, len);
    if (!st) st = outbuf_append(out, "\r\n", 2);
    if (st) out->len = before.len;              /* all of it or nothing */
    return st;
}

qh_status qh_exchange_write(qh_exchange *x, const void *data, size_t len_bytes)
{
    if (x->is_closed) return QH_ECLOSED;
    if (x->reply != REPLY_STREAM) return QH_EINVAL;
    if (!len_bytes) return QH_OK;               /* an empty chunk would be the end marker */
    qh_conn *c = x->conn;
    if (c->out.len > c->server->opts.limits.max_queued_bytes) {
        x->wants_drain = true;
        return QH_AGAIN;
    }
    if (x->is_bodyless) return QH_OK;
    qh_status st = x->is_chunked ? append_chunk(&c->out, data, len_bytes) : outbuf_append(&c->out, data, len_bytes);
    if (st) return st;
    x->n_reply_bytes += (int64_t)len_bytes;
    conn_mark_dirty(c);
    return QH_OK;
}

qh_status qh_exchange_end(qh_exchange *x)
{
    if (x->is_closed) return QH_ECLOSED;
    if (x->reply != REPLY_STREAM) return QH_EINVAL;
    qh_status st = QH_OK;
    if (x->is_chunked && !x->is_bodyless) st = outbuf_append(&x->conn->out, "0\r\n\r\n", 5);
    if (st) return st;
    x->reply = REPLY_ENDED;
    conn_mark_dirty(x->conn);
    return QH_OK;
}

void qh_exchange_abort(qh_exchange *x)
{
    if (x->is_closed || x->reply == REPLY_ENDED) return;
    x->reply = REPLY_ENDED;
    x->is_cut = x->is_last = true;
    conn_mark_dirty(x->conn);
}

void exchange_drain(qh_exchange *x)
{
    x->wants_drain = false;
    if (x->ops && x->ops->on_drain) x->ops->on_drain(x->user);
}

/* ---- errors ---- */

static void format_error(qh_server *s, int http_status, const char *code, const char *message, qh_str *out)
{
    if (s->opts.format_error) s->opts.format_error(s->opts.arg, http_status, code, message, out);
    if (out->len) return;
    qh_str_append_z(out, "{\"error\":{\"message\":");
    qh_str_append_json(out, message, strlen(message));
    qh_str_appendf(out, ",\"type\":\"%s\",\"code\":", http_status < 500 ? "invalid_request_error" : "server_error");
    qh_str_append_json(out, code, strlen(code));
    qh_str_append_z(out, "}}");
}

qh_status qh_exchange_reply_error(qh_exchange *x, int http_status, const char *code,
                                  const char *message, const qh_http_field *fields, int n_fields)
{
    if (x->is_closed) return QH_ECLOSED;
    qh_str body = {0};
    format_error(x->conn->server, http_status, code, message, &body);
    qh_http_field *all = qh_alloc0(((size_t)n_fields + 1) * sizeof *all);
    all[0] = (qh_http_field){"Content-Type", "application/json"};
    if (n_fields) memcpy(all + 1, fields, (size_t)n_fields * sizeof *all);
    qh_status st = qh_exchange_reply(x, http_status, all, n_fields + 1, body.data, body.len);
    qh_free(all);
    qh_str_deinit(&body);
    return st;
}

void conn_queue_error(qh_conn *c, qh_exchange *x, int http_status, const char *code, const char *message)
{
    qh_server *s = c->server;
    qh_str body = {0}, reply = {0};
    format_error(s, http_status, code, message, &body);
    qh_str_appendf(&reply, "HTTP/1.1 %d %s\r\nDate: %s\r\n", http_status, qh_http_reason(http_status), server_date(s));
    if (x) qh_str_appendf(&reply, "X-Request-Id: %s\r\n", x->id);
    qh_str_appendf(&reply, "Content-Type: application/json\r\nContent-Length: %zu\r\n", body.len);
    qh_str_append_z(&reply, "Connection: close\r\n\r\n");
    if (!x || strcmp(x->head.method, "HEAD")) qh_str_append(&reply, body.data, body.len);
    if (x) x->http_status = http_status;
    else server_count_reply(s, http_status);
    outbuf_append(&c->out, reply.data, reply.len);  /* without memory the connection just closes */
    qh_str_deinit(&body);
    qh_str_deinit(&reply);
}
