/* server.c - see server.h and conn.h */
#include "net/conn.h"
#include "net/tls.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BACKLOG = 1024, ACCEPTS_A_TURN = 64 };

typedef struct listener {
    struct listener *next;
    qh_server *server;
    int fd, port;
    qh_watch *watch;
} listener;

const qh_server_limits qh_server_limits_default = {
    .head = {.max_line_bytes = 8190, .max_field_bytes = 8190, .max_head_bytes = 64 << 10, .max_fields = 100},
    .max_body_bytes = 32 << 20,
    .max_body_total_bytes = 512 << 20,
    .max_ahead_bytes = 64 << 10,
    .max_queued_bytes = 256 << 10,
    .max_conns = 4096,
    .first_byte_us = 30000000,
    .head_us = 10000000,
    .body_us = 30000000,
    .body_min_rate = 4096,
    .idle_us = 75000000,
    .stall_us = 60000000,
};

static qh_server_limits fill_limits(qh_server_limits l)
{
    const qh_server_limits d = qh_server_limits_default;
    if (!l.head.max_line_bytes) l.head.max_line_bytes = d.head.max_line_bytes;
    if (!l.head.max_field_bytes) l.head.max_field_bytes = d.head.max_field_bytes;
    if (!l.head.max_head_bytes) l.head.max_head_bytes = d.head.max_head_bytes;
    if (!l.head.max_fields) l.head.max_fields = d.head.max_fields;
    if (!l.max_body_bytes) l.max_body_bytes = d.max_body_bytes;
    if (!l.max_body_total_bytes) l.max_body_total_bytes = d.max_body_total_bytes;
    if (!l.max_ahead_bytes) l.max_ahead_bytes = d.max_ahead_bytes;
    if (!l.max_queued_bytes) l.max_queued_bytes = d.max_queued_bytes;
    if (!l.max_conns) l.max_conns = d.max_conns;
    if (!l.first_byte_us) l.first_byte_us = d.first_byte_us;
    if (!l.head_us) l.head_us = d.head_us;
    if (!l.body_us) l.body_us = d.body_us;
    if (!l.body_min_rate) l.body_min_rate = d.body_min_rate;
    if (!l.idle_us) l.idle_us = d.idle_us;
    if (!l.stall_us) l.stall_us = d.stall_us;
    return l;
}

/* ---- the turn ---- */

static void run_dirty(void *arg)
{
    qh_server *s = arg;
    qh_conn *c = s->dirty;
    s->dirty = NULL;                    /* what is marked from here on waits for the next turn */
    for (qh_conn *next; c; c = next) {
        next = c->next_dirty;
        c->is_dirty = false;
        conn_turn(c);
    }
}

void server_schedule_dirty(qh_server *s) { qh_loop_defer(s->loop, run_dirty, s); }

/* Deferred behind run_dirty of the same turn at the earliest: no list points at what is freed here. */
static void reap(void *arg)
{
    qh_server *s = arg;
    qh_conn *c = s->dead, *kept = NULL;
    s->dead = NULL;
    for (qh_conn *next; c; c = next) {
        next = c->next;
        if (c->is_dirty) c->next = kept, kept = c;      /* still in the dirty list */
        else qh_free(c);
    }
    s->dead = kept;
    if (kept) qh_loop_defer(s->loop, reap, s);
}

static bool is_drained(const qh_server *s) { return s->is_draining && !s->conns; }

static void tell_drained(void *arg)
{
    qh_server *s = arg;
    void (*done)(void *arg) = s->on_drained;
    s->on_drained = NULL;
    if (done) done(s->drained_arg);
}

/* ---- accepting ---- */

static void format_peer(char *out, size_t cap, const struct sockaddr_storage *a)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (a->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        snprintf(out, cap, "%s:%d", host, ntohs(v4->sin_port));
    } else {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        snprintf(out, cap, "[%s]:%d", host, ntohs(v6->sin6_port));
    }
}

static void set_accepting(qh_server *s, bool is_on)
{
    for (listener *l = s->listeners; l; l = l->next) qh_watch_set(l->watch, is_on ? QH_READABLE : 0);
    s->is_accept_paused = !is_on;
}

static void take_client(qh_server *s, int fd, const struct sockaddr_storage *addr)
{
    char peer[PEER_BYTES];
    format_peer(peer, sizeof peer, addr);
    bool is_over = s->n_conns >= s->opts.limits.max_conns;
    if (is_over && s->n_turned_away >= MAX_TURNED_AWAY) {
        close(fd);
        return;
    }
    s->n_accepted++;
    conn_open(s, fd, peer, is_over);
}

static void on_accept(void *arg, int what)
{
    (void)what;
    listener *l = arg;
    qh_server *s = l->server;
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        struct sockaddr_storage addr;
        socklen_t len = sizeof addr;
        int fd = accept4(l->fd, (struct sockaddr *)&addr, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            take_client(s, fd, &addr);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            /* The listener stays readable: wait for the sweep instead of spinning. */
            qh_warn("http.accept", "error=\"%s\" conns=%d", strerror(errno), s->n_conns);
            set_accepting(s, false);
            if (!qh_timer_is_set(s->sweep)) qh_timer_set(s->sweep, SWEEP_US);
            return;
        } else if (errno != ECONNABORTED && errno != EINTR) {
            return;
        }
    }
}

/* ---- time ---- */

static void sweep(void *arg)
{
    qh_server *s = arg;
    int64_t now_us = qh_now_us();
    if (s->is_accept_paused && !s->is_draining) set_accepting(s, true);
    for (qh_conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        /* A callback may kill other connections: a dead one is in the list of the dead. */
        conn_check_time(c, now_us);
        if (next && next->is_dead) break;       /* the rest at the next sweep */
    }
    if (s->conns) qh_timer_set(s->sweep, SWEEP_US);
}

/* ---- connections ---- */

void server_conn_came(qh_server *s, qh_conn *c)
{
    c->next = s->conns;
    if (s->conns) s->conns->prev = c;
    s->conns = c;
    if (c->is_turned_away) s->n_turned_away++;
    else s->n_conns++;
    qh_metric_add(s->m_conns, 1);
    if (!qh_timer_is_set(s->sweep)) qh_timer_set(s->sweep, SWEEP_US);
}

void server_conn_gone(qh_server *s, qh_conn *c)
{
    if (c->prev) c->prev->next = c->next;
    else s->conns = c->next;
    if (c->next) c->next->prev = c->prev;
    if (c->is_turned_away) s->n_turned_away--;
    else s->n_conns--;
    qh_metric_add(s->m_conns, -1);
    if (!s->dead) qh_loop_defer(s->loop, reap, s);
    c->prev = NULL;
    c->next = s->dead;
    s->dead = c;
    if (is_drained(s)) qh_loop_defer(s->loop, tell_drained, s);
}

const char *server_date(qh_server *s)
{
    static const char DAYS[] = "SunMonTueWedThuFriSat", MONTHS[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    int64_t now_s = qh_wall_us() / 1000000;
    if (now_s != s->date_s) {
        time_t t = (time_t)now_s;
        struct tm tm;
        gmtime_r(&t, &tm);
        snprintf(s->date, sizeof s->date, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT", DAYS + 3 * tm.tm_wday,
                 tm.tm_mday, MONTHS + 3 * tm.tm_mon, tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
        s->date_s = now_s;
    }
    return s->date;
}

void server_count_reply(qh_server *s, int http_status) { qh_metric_add(s->m_class[http_status / 100], 1); }

qh_server_counts qh_server_count(const qh_server *s)
{
    return (qh_server_counts){.n_conns = s->n_conns, .n_exchanges = s->n_exchanges, .n_accepted = s->n_accepted,
                              .n_requests = s->n_requests};
}

/* ---- life ---- */

static void register_metrics(qh_server *s)
{
    static const char *const LABELS[6] = {NULL, NULL, "class=\"2xx\"", "class=\"3xx\"", "class=\"4xx\"",
                                          "class=\"5xx\""};
    s->m_conns = qh_metric_gauge("qhost_http_connections", NULL, "open client connections");
    s->m_refused = qh_metric_counter("qhost_http_refused_total", NULL, "requests refused before a handler saw them");
    for (int i = 2; i < 6; i++)
        s->m_class[i] = qh_metric_counter("qhost_http_requests_total", LABELS[i], "requests by class of their status");
}

qh_status qh_server_new(qh_server **out, qh_loop *l, const qh_server_opts *opts, qh_err *err)
{
    *out = NULL;
    qh_server *s = qh_new0(qh_server);
    s->loop = l;
    s->opts = *opts;
    s->opts.limits = fill_limits(opts->limits);
    s->opts.tls_cert = opts->tls_cert ? qh_strdup(opts->tls_cert) : NULL;
    s->opts.tls_key = opts->tls_key ? qh_strdup(opts->tls_key) : NULL;
    s->scratch = qh_alloc0(SCRATCH_BYTES);
    s->sweep = qh_timer_new(l, sweep, s);
    s->id_seed = qh_rng_entropy();
    register_metrics(s);
    qh_status st = QH_OK;
    if (!opts->tls_cert != !opts->tls_key)
        st = qh_fail(err, QH_EINVAL, "TLS needs both a certificate and its key, only the %s was given",
                     opts->tls_cert ? "certificate" : "key");
    else if (opts->tls_cert)
        st = qh_server_reload_tls(s, err);
    if (st) {
        qh_server_free(s);
        return st;
    }
    *out = s;
    return QH_OK;
}

qh_status qh_server_reload_tls(qh_server *s, qh_err *err)
{
    qh_tls_context *fresh;
    if (!s->opts.tls_cert) return qh_fail(err, QH_EINVAL, "this server does not speak TLS");
    qh_status st = qh_tls_context_new(&fresh, s->opts.tls_cert, s->opts.tls_key, err);
    if (st) return st;
    qh_tls_context_free(s->tls);
    s->tls = fresh;
    return QH_OK;
}

static int bound_port(int fd)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &len)) return 0;
    return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port
                                         : ((struct sockaddr_in *)&a)->sin_port);
}

/* A listening socket on this address, or -1 and errno. */
static int open_listener(const struct addrinfo *a)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (a->ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){1}, sizeof(int));
    if (bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, BACKLOG)) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

static void set_port(struct addrinfo *a, int port)
{
    if (a->ai_family == AF_INET6) ((struct sockaddr_in6 *)a->ai_addr)->sin6_port = htons((uint16_t)port);
    else ((struct sockaddr_in *)a->ai_addr)->sin_port = htons((uint16_t)port);
}

static qh_status add_listener(qh_server *s, int fd, qh_err *err)
{
    listener *l = qh_new0(listener);
    l->server = s;
    l->fd = fd;
    l->port = bound_port(fd);
    qh_status st = qh_watch_new(&l->watch, s->loop, fd, QH_READABLE, on_accept, l, err);
    if (st) {
        close(fd);
        qh_free(l);
        return st;
    }
    listener **end = &s->listeners;
    while (*end) end = &(*end)->next;
    *end = l;
    return QH_OK;
}

/* A name may stand for several addresses ("localhost" for ::1 and 127.0.0.1): all of them are
 * listened on, at one port. One that this machine does not have is passed over. */
qh_status qh_server_listen(qh_server *s, const char *host, int port, qh_err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
    if (port < 0 || port > 65535) return qh_fail(err, QH_EINVAL, "listen: port %d is not in 0..65535", port);
    int rc = getaddrinfo(host, NULL, &hints, &found), n_open = 0, why = 0;
    if (rc) return qh_fail(err, QH_ENOTFOUND, "listen: %s: %s", host, gai_strerror(rc));
    qh_status st = QH_OK;
    for (struct addrinfo *a = found; a && !st; a = a->ai_next) {
        if (a->ai_family != AF_INET && a->ai_family != AF_INET6) continue;
        set_port(a, port);
        int fd = open_listener(a);
        if (fd < 0) {
            why = errno;
            if (why != EADDRNOTAVAIL && why != EAFNOSUPPORT) break;
            continue;
        }
        if (!port) port = bound_port(fd);
        st = add_listener(s, fd, err);
        n_open += !st;
    }
    freeaddrinfo(found);
    bool is_taken = why == EADDRINUSE;
    if (!st && (!n_open || is_taken))
        st = qh_fail(err, is_taken ? QH_EEXIST : QH_EIO, "listen: %s:%d: %s", host, port, strerror(why));
    return st;
}

int qh_server_port(const qh_server *s) { return s->listeners ? s->listeners->port : 0; }

static void close_listeners(qh_server *s)
{
    for (listener *l = s->listeners, *next; l; l = next) {
        next = l->next;
        qh_watch_free(l->watch);
        close(l->fd);
        qh_free(l);
    }
    s->listeners = NULL;
}

void qh_server_drain(qh_server *s, void (*done)(void *arg), void *arg)
{
    s->is_draining = true;
    s->on_drained = done;
    s->drained_arg = arg;
    close_listeners(s);
    for (qh_conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        if (conn_is_idle(c)) conn_kill(c, QH_ECANCELED);
    }
    if (is_drained(s)) qh_loop_defer(s->loop, tell_drained, s);
}

void qh_server_stop(qh_server *s)
{
    close_listeners(s);
    while (s->conns) conn_kill(s->conns, QH_ECANCELED);
}

void qh_server_free(qh_server *s)
{
    if (!s) return;
    qh_server_stop(s);
    qh_loop_undefer(s->loop, run_dirty, s);
    qh_loop_undefer(s->loop, reap, s);
    qh_loop_undefer(s->loop, tell_drained, s);
    for (qh_conn *c = s->dead, *next; c; c = next) {
        next = c->next;
        qh_free(c);
    }
    qh_timer_free(s->sweep);
    qh_tls_context_free(s->tls);
    qh_free(s->scratch);
    qh_free((char *)s->opts.tls_cert);
    qh_free((char *)s->opts.tls_key);
    qh_free(s);
}
