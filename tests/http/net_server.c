/* net_server.c - a server on core/net alone, for the black-box tests of test_net_*.py.
 *
 *   net_server [name=value...]      names are those of LIMITS below, and host, port, cert, key
 *
 * Prints "port N" when it listens. What each path does is in the table at the end. SIGTERM drains,
 * SIGINT stops at once, SIGHUP reads the TLS files again. */
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/http_text.h"
#include "net/server.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static qh_loop *loop;
static qh_server *server;
static int n_closed[32];                /* by status */

/* One request at work. */
typedef struct job {
    qh_exchange *x;
    qh_timer *timer;
    int64_t left, size, delay_us;       /* pieces to come, bytes of one, between them */
    int64_t n_bytes;                    /* received */
    uint64_t sum;                       /* of received bytes */
    int n_pieces;
    void (*on_room)(struct job *j);
} job;

static int64_t param(qh_exchange *x, const char *name, int64_t otherwise)
{
    const char *q = qh_exchange_query(x);
    size_t n = strlen(name);
    for (; q && *q; q = strchr(q, '&') ? strchr(q, '&') + 1 : NULL)
        if (!strncmp(q, name, n) && q[n] == '=') return strtoll(q + n + 1, NULL, 10);
    return otherwise;
}

static void on_close(void *user, qh_status why)
{
    job *j = user;
    n_closed[why]++;
    qh_timer_free(j->timer);
    qh_exchange_unref(j->x);
    qh_free(j);
}

static void on_drain(void *user)
{
    job *j = user;
    j->on_room(j);
}

static void reply_text(qh_exchange *x, int status, const char *text)
{
    qh_http_field f = {"Content-Type", "text/plain"};
    qh_exchange_reply(x, status, &f, 1, text, strlen(text));
}

/* ---- paths ---- */

static void hello(job *j) { reply_text(j->x, 200, "hello\n"); }

/* What the server understood, one fact a line. */
static void show(job *j)
{
    qh_str s = {0};
    qh_exchange *x = j->x;
    qh_str_appendf(&s, "method=%s\ntarget=%s\npath=%s\nquery=%s\nversion=%d\ntls=%d\nbody_length=%lld\n",
                   qh_exchange_method(x), qh_exchange_target(x), qh_exchange_path(x),
                   qh_exchange_query(x) ? qh_exchange_query(x) : "-", qh_exchange_version(x),
                   qh_exchange_is_tls(x), (long long)qh_exchange_body_length(x));
    for (int i = 0; i < qh_exchange_n_headers(x); i++) {
        qh_http_field f = qh_exchange_header_at(x, i);
        qh_str_appendf(&s, "header %s=%s\n", f.name, f.value);
    }
    const char *agent = qh_exchange_header(x, "USER-agent");
    qh_str_appendf(&s, "agent=%s\n", agent ? agent : "-");
    reply_text(x, 200, qh_str_z(&s));
    qh_str_deinit(&s);
}

static void echo_body(void *user)
{
    job *j = user;
    size_t n;
    const char *body = qh_exchange_body(j->x, &n);
    qh_exchange_reply(j->x, 200, NULL, 0, body, n);
}

static void echo(job *j) { qh_exchange_read_body(j->x, param(j->x, "max", 0), echo_body); }

static void resume(void *user)
{
    job *j = user;
    qh_exchange_resume_body(j->x);
}

static void on_piece(void *user, const char *data, size_t len, bool is_last)
{
    job *j = user;
    j->n_bytes += (int64_t)len;
    j->n_pieces += !is_last;
    for (size_t i = 0; i < len; i++) j->sum += (unsigned char)data[i];
    if (is_last) {
        char text[128];
        snprintf(text, sizeof text, "bytes=%lld sum=%llu", (long long)j->n_bytes, (unsigned long long)j->sum);
        reply_text(j->x, 200, text);
    } else if (j->delay_us) {
        qh_exchange_pause_body(j->x);
        qh_timer_set(j->timer, j->delay_us);
    }
}

/* Count a body as it comes; delay_ms: pause so long after each piece. */
static void take(job *j)
{
    j->delay_us = param(j->x, "delay_ms", 0) * 1000;
    j->timer = qh_timer_new(loop, resume, j);
    qh_exchange_stream_body(j->x, param(j->x, "max", 0), on_piece);
}

static void write_piece(job *j)
{
    char piece[65536];
    memset(piece, 'x', sizeof piece);
    while (j->left > 0) {
        qh_status st = qh_exchange_write(j->x, piece, (size_t)j->size);
        if (st) return;                 /* QH_AGAIN: on_drain comes */
        j->left--;
        if (j->delay_us) {
            qh_timer_set(j->timer, j->delay_us);
            return;
        }
    }
    qh_exchange_end(j->x);
}

static void write_next(void *user) { write_piece(user); }

/* n pieces of size bytes, delay_ms apart; with no delay as fast as the client takes them. */
static void stream(job *j)
{
    j->left = param(j->x, "n", 10);
    j->size = param(j->x, "size", 100);
    j->delay_us = param(j->x, "delay_ms", 0) * 1000;
    j->timer = qh_timer_new(loop, write_next, j);
    j->on_room = write_piece;
    if (j->size > 65536) j->size = 65536;
    qh_http_field f = {"Content-Type", "text/event-stream"};
    if (!qh_exchange_begin(j->x, 200, &f, 1)) write_piece(j);
}

static void reply_late(void *user)
{
    job *j = user;
    reply_text(j->x, 200, "late\n");
}

/* Reply after ms; without ms: never. */
static void wait_for(job *j)
{
    int64_t ms = param(j->x, "ms", -1);
    j->timer = qh_timer_new(loop, reply_late, j);
    if (ms >= 0) qh_timer_set(j->timer, ms * 1000);
}

static void cut(job *j)
{
    qh_exchange_begin(j->x, 200, NULL, 0);
    qh_exchange_write(j->x, "partial", 7);
    qh_exchange_abort(j->x);
}

/* Forget the request, with a reply begun or not. */
static void forget(job *j)
{
    if (param(j->x, "begin", 0)) {
        qh_exchange_begin(j->x, 200, NULL, 0);
        qh_exchange_write(j->x, "partial", 7);
    }
    qh_exchange_watch(j->x, NULL, NULL);
    qh_exchange_unref(j->x);
    qh_free(j);
}

static void status(job *j) { reply_text(j->x, (int)param(j->x, "code", 200), "text"); }

static void bad_fields(job *j)
{
    static const qh_http_field BAD[] = {{"X", "a\r\nY: b"}, {"X Y", "a"}, {"X", "\x01"}, {"Content-Length", "3"},
                                        {"Transfer-Encoding", "chunked"}, {"Connection", "upgrade"}, {"", "a"}};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        if (qh_exchange_reply(j->x, 200, &BAD[i], 1, "x", 1) != QH_EINVAL) abort();
    if (qh_exchange_reply(j->x, 199, NULL, 0, "x", 1) != QH_EINVAL) abort();
    if (qh_exchange_write(j->x, "x", 1) != QH_EINVAL) abort();
    qh_http_field ok[] = {{"Connection", "close"}, {"X-Ok", "a b\xc3\xa9"}};
    if (qh_exchange_reply(j->x, 200, ok, 2, "fine", 4)) abort();
    if (qh_exchange_reply(j->x, 200, NULL, 0, "x", 1) != QH_EINVAL) abort();
}

static void refuse(job *j)
{
    qh_http_field f = {"Retry-After", "7"};
    qh_exchange_reply_error(j->x, 429, "rate_limit", "slow \"down\"", &f, 1);
}

/* 0 under the address sanitizer, which keeps freed memory for a while. */
static long resident_kb(void)
{
#ifdef __SANITIZE_ADDRESS__
    return 0;
#endif
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%ld %ld", &pages, &resident) != 2) resident = 0;
    if (f) fclose(f);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Counts of the server; this request is one of n_exchanges. */
static void counts(job *j)
{
    qh_server_counts c = qh_server_count(server);
    char text[512];
    snprintf(text, sizeof text, "conns=%d exchanges=%d accepted=%lld requests=%lld ok=%d closed=%d timedout=%d "
             "format=%d limit=%d canceled=%d rss_kb=%ld", c.n_conns, c.n_exchanges, (long long)c.n_accepted,
             (long long)c.n_requests, n_closed[QH_OK], n_closed[QH_ECLOSED], n_closed[QH_ETIMEDOUT],
             n_closed[QH_EFORMAT], n_closed[QH_ELIMIT], n_closed[QH_ECANCELED], resident_kb());
    reply_text(j->x, 200, text);
}

static const struct {
    const char *path;
    void (*run)(job *j);
} PATHS[] = {
    {"/hello", hello}, {"/show", show}, {"/echo", echo}, {"/take", take}, {"/stream", stream}, {"/wait", wait_for},
    {"/cut", cut}, {"/forget", forget}, {"/status", status}, {"/bad-fields", bad_fields}, {"/refuse", refuse},
    {"/counts", counts},
};

static const qh_exchange_ops OPS = {on_close, on_drain};

static void on_request(void *arg, qh_exchange *x)
{
    (void)arg;
    job *j = qh_new0(job);
    j->x = x;
    qh_exchange_watch(x, &OPS, j);
    qh_exchange_tag(x, "note", "a \"b\"");
    for (size_t i = 0; i < sizeof PATHS / sizeof *PATHS; i++) {
        if (strcmp(PATHS[i].path, qh_exchange_path(x))) continue;
        PATHS[i].run(j);
        return;
    }
    qh_exchange_reply_error(x, 404, "not_found", "no such path", NULL, 0);
}

/* ---- the program ---- */

static void on_drained(void *arg)
{
    (void)arg;
    qh_loop_stop(loop);
}

static void on_signal(void *arg, int signo)
{
    (void)arg;
    qh_err err = {0};
    if (signo == SIGTERM) qh_server_drain(server, on_drained, NULL);
    else if (signo == SIGINT) qh_loop_stop(loop);
    else if (qh_server_reload_tls(server, &err)) qh_warn("tls.reload", "error=\"%s\"", err.msg);
}

typedef struct {
    const char *name;
    size_t offset;
    int size;
} limit;
#define LIMIT(name, member) {name, offsetof(qh_server_limits, member), sizeof(((qh_server_limits *)0)->member)}
static const limit LIMITS[] = {
    LIMIT("line", head.max_line_bytes), LIMIT("field", head.max_field_bytes), LIMIT("head", head.max_head_bytes),
    LIMIT("fields", head.max_fields), LIMIT("body", max_body_bytes), LIMIT("body_total", max_body_total_bytes),
    LIMIT("ahead", max_ahead_bytes), LIMIT("queued", max_queued_bytes), LIMIT("conns", max_conns),
    LIMIT("first_byte_us", first_byte_us), LIMIT("head_us", head_us), LIMIT("body_us", body_us),
    LIMIT("body_min_rate", body_min_rate), LIMIT("idle_us", idle_us), LIMIT("stall_us", stall_us),
};

static const char *host = "127.0.0.1";
static int port;

static void set_option(qh_server_opts *o, const char *text)
{
    const char *eq = strchr(text, '=');
    size_t n = eq ? (size_t)(eq - text) : 0;
    if (n == 4 && !strncmp(text, "cert", 4)) o->tls_cert = eq + 1;
    if (n == 3 && !strncmp(text, "key", 3)) o->tls_key = eq + 1;
    if (n == 4 && !strncmp(text, "host", 4)) host = eq + 1;
    if (n == 4 && !strncmp(text, "port", 4)) port = atoi(eq + 1);
    for (size_t i = 0; i < sizeof LIMITS / sizeof *LIMITS; i++) {
        if (strlen(LIMITS[i].name) != n || strncmp(text, LIMITS[i].name, n)) continue;
        int64_t v = strtoll(eq + 1, NULL, 10);
        memcpy((char *)&o->limits + LIMITS[i].offset, &v, (size_t)LIMITS[i].size);
    }
}

int main(int argc, char **argv)
{
    static const int SIGNALS[3] = {SIGTERM, SIGINT, SIGHUP};
    qh_signal *signals[3] = {0};
    qh_server_opts opts = {.on_request = on_request};
    qh_err err = {0};
    for (int i = 1; i < argc; i++) set_option(&opts, argv[i]);
    if (qh_loop_new(&loop, &err) || qh_server_new(&server, loop, &opts, &err) ||
        qh_server_listen(server, host, port, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    for (int i = 0; i < 3; i++)
        if (qh_signal_new(&signals[i], loop, SIGNALS[i], on_signal, NULL, &err)) return 1;
    printf("port %d\n", qh_server_port(server));
    fflush(stdout);
    qh_loop_run(loop);
    qh_server_free(server);
    for (int i = 0; i < 3; i++) qh_signal_free(signals[i]);
    qh_loop_free(loop);
    return 0;
}
