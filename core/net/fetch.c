/* fetch.c - see fetch.h
 *
 * libcurl's multi interface tells which sockets to watch and when to wake it; both are handles of
 * our loop. libcurl must not be re-entered from its own callbacks, so a fetch that is freed inside
 * one is marked and taken apart when libcurl has returned. */
#include "net/fetch.h"
#include "base/clock.h"
#include "base/mem.h"
#include "net/egress.h"
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_REPLY_HEAD_BYTES = 256 << 10, MAX_REPLY_FIELDS = 256, MAX_KEPT_CONNS = 64 };
#define DEFAULT_CONNECT_US ((int64_t)10000000)
#define DEFAULT_IDLE_US    ((int64_t)60000000)
#define DEFAULT_MAX_BODY   ((int64_t)16 << 20)

struct qh_fetcher {
    qh_loop *loop;              /* not owned */
    CURLM *multi;
    qh_timer *timer;
    int n_inside;               /* depth of libcurl calls */
    qh_fetch *doomed;           /* freed inside libcurl */
};

/* Headers of one hop: text holds name NUL value NUL ...; at holds the offsets. */
typedef struct {
    qh_str text;
    size_t at[2 * MAX_REPLY_FIELDS];
    int n_fields;
} reply_head;

struct qh_fetch {
    qh_fetcher *fetcher;        /* not owned */
    CURL *easy;
    bool is_added, is_done, is_doomed, is_told_head, is_paused;
    qh_fetch *next_doomed;
    /* the request */
    qh_fetch_opts opts;         /* url, method, fields and body are not valid in here: see below */
    char *url, *method, *body;
    size_t body_len_bytes;
    qh_http_field *fields;      /* owned, with their strings */
    int n_fields;
    struct curl_slist *lines;
    int64_t deadline_us;
    int n_redirects;
    /* the reply */
    int http_status;
    reply_head first, head;
    qh_str collected;
    int64_t n_body_bytes;
    qh_status failed;           /* by one of our callbacks */
    qh_err err;
    char curl_err[CURL_ERROR_SIZE];
    char *next_url;             /* a redirect to take when this hop is done */
};

/* ---- reply headers ---- */

static const char *head_get(const reply_head *h, const char *name)
{
    for (int i = 0; i < h->n_fields; i++)
        if (!strcasecmp(h->text.data + h->at[2 * i], name)) return h->text.data + h->at[2 * i + 1];
    return NULL;
}

static void head_clear(reply_head *h)
{
    qh_str_clear(&h->text);
    h->n_fields = 0;
}

static void head_copy(reply_head *to, const reply_head *from)
{
    head_clear(to);
    qh_str_append(&to->text, from->text.data, from->text.len);
    memcpy(to->at, from->at, sizeof to->at);
    to->n_fields = from->n_fields;
}

static bool head_add(reply_head *h, const char *line, size_t len)
{
    while (len && strchr("\r\n \t", line[len - 1])) len--;
    const char *colon = memchr(line, ':', len);
    if (!colon) return true;                    /* the status line, or the end */
    if (h->n_fields == MAX_REPLY_FIELDS || h->text.len + len > MAX_REPLY_HEAD_BYTES) return false;
    const char *value = colon + 1, *end = line + len;
    while (value < end && (*value == ' ' || *value == '\t')) value++;
    h->at[2 * h->n_fields] = h->text.len;
    qh_str_append(&h->text, line, (size_t)(colon - line));
    qh_str_append_c(&h->text, 0);
    h->at[2 * h->n_fields + 1] = h->text.len;
    qh_str_append(&h->text, value, (size_t)(end - value));
    qh_str_append_c(&h->text, 0);
    h->n_fields++;
    return true;
}

/* ---- failing from inside a callback ---- */

static size_t stop(qh_fetch *x, qh_status st, const char *what)
{
    if (!x->failed) {
        x->failed = st;
        qh_fail(&x->err, st, "%s: %s", x->url, what);
    }
    return 0;                                   /* libcurl gives up the transfer */
}

static bool is_redirect(const qh_fetch *x)
{
    int s = x->http_status;
    return x->n_redirects < x->opts.max_redirects && (s == 301 || s == 302 || s == 303 || s == 307 || s == 308) &&
           head_get(&x->head, "location");
}

static bool tell_head(qh_fetch *x)
{
    if (x->is_told_head) return true;
    x->is_told_head = true;
    if (x->opts.on_head) x->opts.on_head(x->opts.user);
    return !x->is_doomed;
}

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
    qh_fetch *x = arg;
    size_t len = size * n;
    if (x->is_doomed) return 0;
    if (len >= 5 && !memcmp(line, "HTTP/", 5)) {        /* an interim reply may come before the real one */
        long status = 0;
        head_clear(&x->head);
        curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &status);
        x->http_status = (int)status;
        return len;
    }
    if (!head_add(&x->head, line, len)) return stop(x, QH_ELIMIT, "the reply has too many headers");
    return len;
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
    qh_fetch *x = arg;
    size_t len = size * n;
    if (x->is_doomed) return 0;
    if (is_redirect(x)) return len;             /* its body is nobody's business */
    if (!tell_head(x)) return 0;
    if (x->n_body_bytes + (int64_t)len > x->opts.max_body_bytes)
        return stop(x, QH_ELIMIT, "the reply is larger than the limit");
    if (x->opts.on_body) {
        qh_status st = x->opts.on_body(x->opts.user, data, len);
        if (x->is_doomed) return 0;
        if (st == QH_AGAIN) {
            x->is_paused = true;
            return CURL_WRITEFUNC_PAUSE;
        }
        if (st) return stop(x, st, "stopped by the receiver");
    } else {
        qh_str_append(&x->collected, data, len);
    }
    x->n_body_bytes += (int64_t)len;
    return len;
}

/* ---- the request ---- */

static qh_status url_part(CURLU *u, CURLUPart part, unsigned flags, char **out)
{
    char *s = NULL;
    CURLUcode rc = curl_url_get(u, part, &s, flags);
    if (rc) return QH_EINVAL;
    *out = qh_strdup(s);
    curl_free(s);
    return QH_OK;
}

typedef struct {
    char *scheme, *host;
    int port;
} origin;

static void origin_deinit(origin *o)
{
    qh_free(o->scheme);
    qh_free(o->host);
    *o = (origin){0};
}

static qh_status origin_of(origin *o, const char *url, qh_err *err)
{
    *o = (origin){0};
    char *port = NULL;
    CURLU *u = curl_url();
    CURLUcode rc = u ? curl_url_set(u, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) : CURLUE_OUT_OF_MEMORY;
    qh_status st = QH_OK;
    if (rc || url_part(u, CURLUPART_SCHEME, 0, &o->scheme) || url_part(u, CURLUPART_HOST, 0, &o->host) ||
        url_part(u, CURLUPART_PORT, CURLU_DEFAULT_PORT, &port))
        st = qh_fail(err, QH_EINVAL, "%s: not a URL: %s", url,
                     rc ? curl_url_strerror(rc) : "needs http:// or https:// and a host");
    else if (strcmp(o->scheme, "http") && strcmp(o->scheme, "https"))
        st = qh_fail(err, QH_EINVAL, "%s: only http:// and https:// are fetched", url);
    if (!st) o->port = atoi(port);
    curl_url_cleanup(u);
    qh_free(port);
    if (st) origin_deinit(o);
    return st;
}

static qh_status check_allowed(qh_fetch *x, const char *url, qh_err *err)
{
    origin o;
    qh_status st = origin_of(&o, url, err);
    if (st) return st;
    if (x->opts.allow) st = x->opts.allow(x->opts.user, o.scheme, o.host, o.port, err);
    origin_deinit(&o);
    return st;
}

static bool is_credential(const char *name)
{
    return !strcasecmp(name, "authorization") || !strcasecmp(name, "cookie") ||
           !strcasecmp(name, "proxy-authorization");
}

static bool is_framing(const char *name)
{
    return !strcasecmp(name, "content-length") || !strcasecmp(name, "transfer-encoding");
}

static bool has_field(const qh_fetch *x, const char *name)
{
    for (int i = 0; i < x->n_fields; i++)
        if (!strcasecmp(x->fields[i].name, name)) return true;
    return false;
}

static qh_status add_line(qh_fetch *x, const char *line)
{
    struct curl_slist *grown = curl_slist_append(x->lines, line);
    if (!grown) return QH_ENOMEM;
    x->lines = grown;
    return QH_OK;
}

static qh_status build_lines(qh_fetch *x)
{
    curl_slist_free_all(x->lines);
    x->lines = NULL;
    qh_str line = {0};
    qh_status st = QH_OK;
    for (int i = 0; i < x->n_fields && !st; i++) {
        qh_str_clear(&line);
        /* "name;" is how libcurl is told to send a field without a value */
        if (*x->fields[i].value) qh_str_appendf(&line, "%s: %s", x->fields[i].name, x->fields[i].value);
        else qh_str_appendf(&line, "%s;", x->fields[i].name);
        st = add_line(x, qh_str_z(&line));
    }
    qh_str_deinit(&line);
    /* Not what libcurl adds by itself: waiting for 100-continue, which many servers never send, and
     * the type of a form that nobody filled in. */
    if (!st) st = add_line(x, "Expect:");
    if (!st && x->body && !has_field(x, "content-type")) st = add_line(x, "Content-Type:");
    return st;
}

static void set_method(qh_fetch *x)
{
    bool is_head = !strcmp(x->method, "HEAD");
    curl_easy_setopt(x->easy, CURLOPT_NOBODY, is_head ? 1L : 0L);
    if (x->body) {
        curl_easy_setopt(x->easy, CURLOPT_POST, 1L);
        curl_easy_setopt(x->easy, CURLOPT_POSTFIELDS, x->body);
        curl_easy_setopt(x->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)x->body_len_bytes);
    } else if (!is_head) {
        curl_easy_setopt(x->easy, CURLOPT_HTTPGET, 1L);
    }
    if (!is_head) curl_easy_setopt(x->easy, CURLOPT_CUSTOMREQUEST, x->method);
    else curl_easy_setopt(x->easy, CURLOPT_CUSTOMREQUEST, NULL);
}

/* Set up the easy handle for x->url and hand it to libcurl. */
static qh_status begin_hop(qh_fetch *x, qh_err *err)
{
    const qh_fetch_opts *o = &x->opts;
    CURL *e = x->easy;
    head_clear(&x->head);
    x->http_status = 0;
    x->curl_err[0] = 0;
    if (build_lines(x)) return qh_fail(err, QH_ENOMEM, "%s: out of memory", x->url);
    curl_easy_setopt(e, CURLOPT_URL, x->url);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, x->lines);
    set_method(x);
    origin to = {0};                            /* no proxy stands between us and ourselves */
    bool is_local = !origin_of(&to, x->url, NULL) && qh_egress_is_loopback(to.host);
    origin_deinit(&to);
    curl_easy_setopt(e, CURLOPT_NOPROXY, is_local ? "*" : NULL);
    if (x->deadline_us) {
        int64_t left_ms = (x->deadline_us - qh_now_us()) / 1000;
        curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, left_ms > 0 ? (long)left_ms : 1L);
    }
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)(o->connect_us / 1000));
    /* "less than 1 byte a second for so many seconds" */
    curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, (long)((o->idle_us + 999999) / 1000000));
    CURLMcode rc = curl_multi_add_handle(x->fetcher->multi, e);
    if (rc) return qh_fail(err, QH_EIO, "%s: %s", x->url, curl_multi_strerror(rc));
    x->is_added = true;
    return QH_OK;
}

static qh_status setup(qh_fetch *x)
{
    x->easy = curl_easy_init();
    if (!x->easy) return QH_ENOMEM;
    CURL *e = x->easy;
    curl_easy_setopt(e, CURLOPT_PRIVATE, x);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, x->curl_err);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(e, CURLOPT_USERAGENT, "qhost");
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(e, CURLOPT_HEADERDATA, x);
    curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    return QH_OK;
}

/* ---- redirects ---- */

static void drop_field(qh_fetch *x, int i)
{
    qh_free((char *)x->fields[i].name);
    qh_free((char *)x->fields[i].value);
    memmove(x->fields + i, x->fields + i + 1, (size_t)(--x->n_fields - i) * sizeof *x->fields);
}

static void drop_fields(qh_fetch *x, bool (*is_dropped)(const char *name))
{
    for (int i = x->n_fields - 1; i >= 0; i--)
        if (is_dropped(x->fields[i].name)) drop_field(x, i);
}

static bool is_about_body(const char *name) { return !strncasecmp(name, "content-", 8); }

/* RFC 9110 section 15.4: 303 turns everything but HEAD into GET, 301 and 302 a POST. */
static void change_method(qh_fetch *x)
{
    bool is_post = !strcmp(x->method, "POST");
    bool becomes_get = (x->http_status == 303 && strcmp(x->method, "HEAD")) ||
                       ((x->http_status == 301 || x->http_status == 302) && is_post);
    if (!becomes_get) return;
    qh_free(x->method);
    x->method = qh_strdup("GET");
    qh_free(x->body);
    x->body = NULL;
    drop_fields(x, is_about_body);
}

static qh_status check_hop(qh_fetch *x, const char *next, bool *is_other, qh_err *err)
{
    origin from, to;
    qh_status st = origin_of(&from, x->url, err);
    if (st) return st;
    st = origin_of(&to, next, err);
    if (!st) {
        *is_other = strcmp(from.scheme, to.scheme) || strcasecmp(from.host, to.host) || from.port != to.port;
        if (!strcmp(from.scheme, "https") && strcmp(to.scheme, "https"))
            st = qh_fail(err, QH_EACCES, "%s: redirected from https to http", x->url);
        origin_deinit(&to);
    }
    origin_deinit(&from);
    return st ? st : check_allowed(x, next, err);
}

/* Take the redirect in next_url. */
static qh_status follow(qh_fetch *x, qh_err *err)
{
    bool is_other = false;
    char *next = x->next_url;
    x->next_url = NULL;
    qh_status st = check_hop(x, next, &is_other, err);
    if (st) {
        qh_free(next);
        return st;
    }
    if (!x->n_redirects++) head_copy(&x->first, &x->head);
    if (is_other) drop_fields(x, is_credential);
    change_method(x);
    qh_free(x->url);
    x->url = next;
    return begin_hop(x, err);
}

/* ---- the end of a hop ---- */

static qh_status judge(qh_fetch *x, CURLcode rc)
{
    if (x->failed) return x->failed;
    if (rc == CURLE_OK) return QH_OK;
    qh_status st = QH_EIO;
    if (rc == CURLE_OPERATION_TIMEDOUT) st = QH_ETIMEDOUT;
    else if (rc == CURLE_OUT_OF_MEMORY) st = QH_ENOMEM;
    else if (rc == CURLE_UNSUPPORTED_PROTOCOL || rc == CURLE_WEIRD_SERVER_REPLY || rc == CURLE_HTTP2) st = QH_EFORMAT;
    return qh_fail(&x->err, st, "%s: %s", x->url, x->curl_err[0] ? x->curl_err : curl_easy_strerror(rc));
}

static void finish(qh_fetch *x, qh_status st)
{
    x->is_done = true;
    if (!st && !tell_head(x)) return;           /* freed in there: doomed */
    x->opts.on_done(x->opts.user, st, &x->err);
}

static void end_hop(qh_fetch *x, CURLcode rc)
{
    curl_multi_remove_handle(x->fetcher->multi, x->easy);
    x->is_added = false;
    if (x->is_doomed) return;
    qh_status st = judge(x, rc);
    if (!st && is_redirect(x)) {
        char *next = NULL;
        curl_easy_getinfo(x->easy, CURLINFO_REDIRECT_URL, &next);
        if (next) {
            x->next_url = qh_strdup(next);
            st = follow(x, &x->err);
            if (!st) return;
        }
    }
    finish(x, st);
}

/* ---- libcurl and the loop ---- */

static void destroy(qh_fetch *x);

/* Calls into libcurl are bracketed: what was freed meanwhile is taken apart at the end of the outermost. */
static void leave(qh_fetcher *f)
{
    if (--f->n_inside) return;
    while (f->doomed) {
        qh_fetch *x = f->doomed;
        f->doomed = x->next_doomed;
        destroy(x);
    }
}

static void collect_ends(qh_fetcher *f)
{
    int n_left;
    for (CURLMsg *m; (m = curl_multi_info_read(f->multi, &n_left));) {
        if (m->msg != CURLMSG_DONE) continue;
        CURLcode rc = m->data.result;
        qh_fetch *x = NULL;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&x);
        end_hop(x, rc);
    }
}

static void act(qh_fetcher *f, curl_socket_t fd, int what)
{
    int n_running;
    f->n_inside++;
    curl_multi_socket_action(f->multi, fd, what, &n_running);
    collect_ends(f);
    leave(f);
}

/* One descriptor of libcurl's. */
typedef struct {
    qh_fetcher *f;
    curl_socket_t fd;
    qh_watch *watch;
} socket_watch;

static void on_socket(void *arg, int what)
{
    socket_watch *w = arg;
    act(w->f, w->fd, (what & QH_READABLE ? CURL_CSELECT_IN : 0) | (what & QH_WRITABLE ? CURL_CSELECT_OUT : 0));
}

static int change_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    (void)easy;
    qh_fetcher *f = arg;
    socket_watch *w = socket_arg;
    if (what == CURL_POLL_REMOVE) {
        if (w) qh_watch_free(w->watch);
        qh_free(w);
        curl_multi_assign(f->multi, fd, NULL);
        return 0;
    }
    int wanted = (what & CURL_POLL_IN ? QH_READABLE : 0) | (what & CURL_POLL_OUT ? QH_WRITABLE : 0);
    if (w) return qh_watch_set(w->watch, wanted) ? -1 : 0;
    w = qh_new0(socket_watch);
    w->f = f, w->fd = fd;
    if (qh_watch_new(&w->watch, f->loop, fd, wanted, on_socket, w, NULL)) {
        qh_free(w);
        return -1;
    }
    curl_multi_assign(f->multi, fd, w);
    return 0;
}

static void on_time(void *arg)
{
    qh_fetcher *f = arg;
    act(f, CURL_SOCKET_TIMEOUT, 0);
}

static int change_timer(CURLM *multi, long ms, void *arg)
{
    (void)multi;
    qh_fetcher *f = arg;
    if (ms < 0) qh_timer_cancel(f->timer);
    else qh_timer_set(f->timer, (int64_t)ms * 1000);
    return 0;
}

/* ---- life ---- */

qh_status qh_fetcher_new(qh_fetcher **out, qh_loop *l, qh_err *err)
{
    *out = NULL;
    qh_fetcher *f = qh_new0(qh_fetcher);
    f->loop = l;
    f->timer = qh_timer_new(l, on_time, f);
    if (curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK) f->multi = curl_multi_init();
    if (!f->multi) {
        qh_timer_free(f->timer);
        qh_free(f);
        return qh_fail(err, QH_ENOMEM, "fetch: libcurl does not start");
    }
    curl_multi_setopt(f->multi, CURLMOPT_SOCKETFUNCTION, change_socket);
    curl_multi_setopt(f->multi, CURLMOPT_SOCKETDATA, f);
    curl_multi_setopt(f->multi, CURLMOPT_TIMERFUNCTION, change_timer);
    curl_multi_setopt(f->multi, CURLMOPT_TIMERDATA, f);
    curl_multi_setopt(f->multi, CURLMOPT_MAXCONNECTS, (long)MAX_KEPT_CONNS);
    *out = f;
    return QH_OK;
}

void qh_fetcher_free(qh_fetcher *f)
{
    if (!f) return;
    curl_multi_cleanup(f->multi);       /* closes kept connections, which frees their watches */
    qh_timer_free(f->timer);
    curl_global_cleanup();
    qh_free(f);
}

static void destroy(qh_fetch *x)
{
    if (x->is_added) curl_multi_remove_handle(x->fetcher->multi, x->easy);
    curl_easy_cleanup(x->easy);
    curl_slist_free_all(x->lines);
    while (x->n_fields) drop_field(x, x->n_fields - 1);
    qh_free(x->fields);
    qh_free(x->url);
    qh_free(x->method);
    qh_free(x->body);
    qh_free(x->next_url);
    qh_str_deinit(&x->first.text);
    qh_str_deinit(&x->head.text);
    qh_str_deinit(&x->collected);
    qh_free(x);
}

static qh_status copy_request(qh_fetch *x, const qh_fetch_opts *o, qh_err *err)
{
    x->url = qh_strdup(o->url);
    x->method = qh_strdup(o->method ? o->method : o->body ? "POST" : "GET");
    if (!qh_http1_is_token(x->method)) return qh_fail(err, QH_EINVAL, "%s: bad method '%s'", o->url, x->method);
    if (o->body) {
        x->body = qh_try_alloc0(o->body_len_bytes + 1, 1);
        if (!x->body)
            return qh_fail(err, QH_ENOMEM, "%s: no memory for a body of %zu bytes", o->url, o->body_len_bytes);
        memcpy(x->body, o->body, o->body_len_bytes);
        x->body_len_bytes = o->body_len_bytes;
    }
    x->fields = qh_alloc0((size_t)o->n_fields * sizeof *x->fields);
    for (int i = 0; i < o->n_fields; i++) {
        if (!qh_http1_is_token(o->fields[i].name) || is_framing(o->fields[i].name) ||
            !qh_http1_is_field_value(o->fields[i].value))
            return qh_fail(err, QH_EINVAL, "%s: bad header '%s'", o->url, o->fields[i].name);
        x->fields[x->n_fields++] = (qh_http_field){qh_strdup(o->fields[i].name), qh_strdup(o->fields[i].value)};
    }
    return QH_OK;
}

qh_status qh_fetch_start(qh_fetch **out, qh_fetcher *f, const qh_fetch_opts *opts, qh_err *err)
{
    *out = NULL;
    qh_fetch *x = qh_new0(qh_fetch);
    x->fetcher = f;
    x->opts = *opts;
    if (!x->opts.connect_us) x->opts.connect_us = DEFAULT_CONNECT_US;
    if (!x->opts.idle_us) x->opts.idle_us = DEFAULT_IDLE_US;
    if (!x->opts.max_body_bytes) x->opts.max_body_bytes = DEFAULT_MAX_BODY;
    if (opts->timeout_us) x->deadline_us = qh_now_us() + opts->timeout_us;
    qh_status st = copy_request(x, opts, err);
    if (!st) st = check_allowed(x, x->url, err);
    if (!st && setup(x)) st = qh_fail(err, QH_ENOMEM, "%s: libcurl has no memory", opts->url);
    if (!st) st = begin_hop(x, err);
    if (st) {
        destroy(x);
        return st;
    }
    *out = x;
    return QH_OK;
}

void qh_fetch_free(qh_fetch *x)
{
    if (!x || x->is_doomed) return;
    if (!x->fetcher->n_inside) {
        destroy(x);
        return;
    }
    x->is_doomed = true;
    x->next_doomed = x->fetcher->doomed;
    x->fetcher->doomed = x;
}

void qh_fetch_resume(qh_fetch *x)
{
    if (!x->is_paused || x->is_done) return;
    x->is_paused = false;
    x->fetcher->n_inside++;
    curl_easy_pause(x->easy, CURLPAUSE_CONT);
    leave(x->fetcher);
}

/* ---- the reply ---- */

int qh_fetch_status(const qh_fetch *x) { return x->http_status; }
int qh_fetch_n_headers(const qh_fetch *x) { return x->head.n_fields; }
const char *qh_fetch_header(const qh_fetch *x, const char *name) { return head_get(&x->head, name); }
const char *qh_fetch_url(const qh_fetch *x) { return x->url; }

qh_http_field qh_fetch_header_at(const qh_fetch *x, int i)
{
    qh_assert(i >= 0 && i < x->head.n_fields);
    return (qh_http_field){x->head.text.data + x->head.at[2 * i], x->head.text.data + x->head.at[2 * i + 1]};
}

const char *qh_fetch_body(const qh_fetch *x, size_t *len_bytes)
{
    *len_bytes = x->collected.len;
    return qh_str_z(&x->collected);
}

const char *qh_fetch_first_header(const qh_fetch *x, const char *name)
{
    return head_get(x->n_redirects ? &x->first : &x->head, name);
}
