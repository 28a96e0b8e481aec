/* conn.c - see conn.h */
#include "net/conn.h"
#include "net/tls.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- bytes on their way out ---- */

qh_status outbuf_append(outbuf *b, const void *data, size_t len_bytes)
{
    if (!len_bytes) return QH_OK;
    if (b->start && b->start + b->len + len_bytes > b->cap) {
        memmove(b->data, b->data + b->start, b->len);
        b->start = 0;
    }
    if (b->len + len_bytes > b->cap) {
        size_t cap = b->cap ? b->cap * 2 : 1024;
        if (cap < b->len + len_bytes) cap = b->len + len_bytes;
        char *grown = qh_try_realloc(b->data, cap, 1);
        if (!grown) return QH_ENOMEM;
        b->data = grown, b->cap = cap;
    }
    memcpy(b->data + b->start + b->len, data, len_bytes);
    b->len += len_bytes;
    return QH_OK;
}

void outbuf_take(outbuf *b, size_t len_bytes)
{
    b->start += len_bytes;
    b->len -= len_bytes;
    if (!b->len) outbuf_deinit(b);      /* an idle connection holds no buffer */
}

void outbuf_deinit(outbuf *b)
{
    qh_free(b->data);
    *b = (outbuf){0};
}

/* ---- the socket ---- */

typedef enum { IO_DONE, IO_AGAIN, IO_END } io_result;

static io_result read_some(qh_conn *c, char *buf, size_t cap, size_t *n)
{
    if (c->tls) {
        qh_tls_result r = qh_tls_read(c->tls, buf, cap, n);
        return r == QH_TLS_DONE ? IO_DONE : r == QH_TLS_AGAIN ? IO_AGAIN : IO_END;
    }
    ssize_t got = recv(c->fd, buf, cap, 0);
    if (got < 0) return errno == EAGAIN || errno == EINTR ? IO_AGAIN : IO_END;
    *n = (size_t)got;
    return got ? IO_DONE : IO_END;
}

static io_result write_some(qh_conn *c, const char *data, size_t len, size_t *n)
{
    if (c->tls) {
        qh_tls_result r = qh_tls_write(c->tls, data, len, n);
        return r == QH_TLS_DONE ? IO_DONE : r == QH_TLS_AGAIN ? IO_AGAIN : IO_END;
    }
    ssize_t put = send(c->fd, data, len, MSG_NOSIGNAL);
    if (put < 0) return errno == EAGAIN || errno == EINTR ? IO_AGAIN : IO_END;
    *n = (size_t)put;
    return IO_DONE;
}

static bool has_room(const qh_conn *c)
{
    return c->ahead.len < c->server->opts.limits.max_ahead_bytes;
}

/* Ask the loop for what the state needs: input unless enough is kept, output while it is blocked. */
static void update_watch(qh_conn *c)
{
    int what = (has_room(c) ? QH_READABLE : 0) | (c->is_write_blocked ? QH_WRITABLE : 0);
    if (what == c->watching) return;
    if (qh_watch_set(c->watch, what)) conn_kill(c, QH_EIO);
    else c->watching = what;
}

static void set_phase(qh_conn *c, conn_phase phase)
{
    c->phase = phase;
    c->phase_us = qh_now_us();
    c->n_discard_bytes = 0;
}

void conn_kill(qh_conn *c, qh_status why)
{
    if (c->is_dead) return;
    c->is_dead = true;
    qh_exchange *x = c->x;
    c->x = NULL;
    qh_watch_free(c->watch);
    c->watch = NULL;
    qh_tls_free(c->tls);
    c->tls = NULL;
    close(c->fd);
    qh_http1_deinit(&c->parser);
    qh_str_deinit(&c->ahead);
    outbuf_deinit(&c->out);
    c->in_len = 0;
    server_conn_gone(c->server, c);
    if (x) exchange_close(x, why);
}

static void begin_linger(qh_conn *c)
{
    bool is_all_read = !c->ahead.len && !c->in_len && c->phase == CONN_WORK;
    if (is_all_read) {
        if (c->tls) qh_tls_close_notify(c->tls);
        conn_kill(c, QH_OK);
        return;
    }
    set_phase(c, CONN_LINGER);
    if (c->tls) qh_tls_close_notify(c->tls);
    shutdown(c->fd, SHUT_WR);
    qh_str_deinit(&c->ahead);
    c->in_len = 0;
}

/* ---- refusals ---- */

/* Answer and end the connection. Ends the exchange too, if there is one. */
static void fail(qh_conn *c, qh_status why, int http_status, const char *code, const char *message)
{
    qh_exchange *x = c->x;
    if (x && x->reply != REPLY_NONE) {      /* too late for another status */
        conn_kill(c, why);
        return;
    }
    if (c->phase == CONN_DISCARD) {         /* the request has had its reply */
        set_phase(c, CONN_CLOSING);
        return;
    }
    conn_queue_error(c, x, http_status, code, message);
    set_phase(c, CONN_CLOSING);
    if (!x) {
        qh_metric_add(c->server->m_refused, 1);
        qh_info("http.refused", "peer=%s status=%d code=%s message=\"%s\"", c->peer, http_status, code, message);
        return;
    }
    c->x = NULL;
    exchange_close(x, why);
}

static void fail_body(qh_conn *c, qh_status st)
{
    if (st == QH_EUNSUPPORTED)
        fail(c, st, 501, "unknown_transfer_coding", "only the chunked transfer coding is decoded");
    else if (st == QH_ELIMIT) fail(c, st, 413, "body_too_large", "the request body is too large");
    else if (st == QH_AGAIN) fail(c, QH_ELIMIT, 503, "server_busy", "too many request bodies at once");
    else fail(c, QH_ENOMEM, 503, "server_busy", "no memory for the request body");
}

/* ---- input ---- */

static void begin_exchange(qh_conn *c)
{
    qh_server *s = c->server;
    size_t used;
    qh_exchange *x = c->x = exchange_new(c);
    set_phase(c, CONN_WORK);
    c->has_served = true;
    s->n_requests++;
    if (x->head.body_len_bytes == 0) {
        qh_http1_event ev = qh_http1_feed(&c->parser, NULL, 0, &used);
        qh_assert(ev == QH_HTTP1_END);
        x->is_body_done = true;
    }
    s->opts.on_request(s->opts.arg, x);
}

static void body_piece(qh_conn *c)
{
    if (!c->x) {
        c->n_discard_bytes += (int64_t)c->parser.piece_len_bytes;
        if (c->n_discard_bytes > DISCARD_MAX_BYTES) set_phase(c, CONN_CLOSING);
        return;
    }
    qh_status st = exchange_take_body(c->x, c->parser.piece, c->parser.piece_len_bytes);
    if (st && !c->is_dead) fail_body(c, st);
}

static void body_end(qh_conn *c)
{
    if (c->x) c->x->is_body_done = true;
    else set_phase(c, CONN_HEAD);
}

static bool wants_input(const qh_conn *c)
{
    const qh_exchange *x = c->x;
    if (c->is_dead || c->phase == CONN_CLOSING) return false;
    if (!x) return true;
    return x->body_mode != BODY_UNASKED && !x->is_body_done && !x->is_body_paused && x->reply != REPLY_ENDED;
}

/* One parser event; false when the input is used up. */
static bool parse_some(qh_conn *c)
{
    size_t used;
    bool was_idle = qh_http1_is_idle(&c->parser);
    qh_http1_event ev = qh_http1_feed(&c->parser, c->in, c->in_len, &used);
    c->in += used;
    c->in_len -= used;
    if (was_idle && used) c->phase_us = qh_now_us();    /* a head began */
    switch (ev) {
    case QH_HTTP1_MORE: return false;
    case QH_HTTP1_HEAD: begin_exchange(c); break;
    case QH_HTTP1_BODY: body_piece(c); break;
    case QH_HTTP1_END: body_end(c); break;
    case QH_HTTP1_BAD: {
        qh_http1_error bad = c->parser.bad;
        fail(c, QH_EFORMAT, bad.http_status, bad.code, bad.message);
        break;
    }
    }
    return true;
}

static void parse_all(qh_conn *c)
{
    if (c->phase == CONN_LINGER) c->in_len = 0;
    /* A complete body stops it: the handler is told before anything else is looked at. */
    while (wants_input(c)) {
        qh_status st = c->x ? exchange_check_body(c->x) : QH_OK;
        if (st) fail_body(c, st);
        else if (!parse_some(c)) break;
    }
}

/* ---- output ---- */

static void flush(qh_conn *c)
{
    while (c->out.len && !c->is_write_blocked) {
        size_t n = 0;
        io_result r = write_some(c, c->out.data + c->out.start, c->out.len, &n);
        if (r == IO_END) {
            conn_kill(c, QH_ECLOSED);
            return;
        }
        /* TLS takes one record at a time: less than asked says nothing about the socket. */
        if (r == IO_AGAIN || (n < c->out.len && !c->tls)) {
            c->is_write_blocked = true;
            c->progress_us = qh_now_us();
        }
        outbuf_take(&c->out, n);
    }
}

/* The reply is with the kernel. */
static void finish_exchange(qh_conn *c)
{
    qh_exchange *x = c->x;
    bool is_last = x->is_last, is_body_done = x->is_body_done;
    qh_status why = x->is_cut ? QH_ECLOSED : QH_OK;
    if (is_last) {
        c->x = NULL;
        exchange_close(x, why);
        if (c->is_dead) return;
        if (!is_body_done) set_phase(c, CONN_CLOSING);
        begin_linger(c);
        return;
    }
    c->x = NULL;
    set_phase(c, is_body_done ? CONN_HEAD : CONN_DISCARD);
    exchange_close(x, why);
}

/* Parse, call back, write and finish until nothing moves any more. */
static void settle(qh_conn *c)
{
    for (bool is_moving = true; is_moving && !c->is_dead;) {
        is_moving = false;
        parse_all(c);
        if (c->x && c->x->is_body_done) exchange_end_body(c->x);
        if (!c->is_dead) flush(c);
        if (!c->is_dead && c->x && c->x->wants_drain &&
            c->out.len <= c->server->opts.limits.max_queued_bytes / 2) {
            exchange_drain(c->x);
            is_moving = !c->is_dead && c->out.len && !c->is_write_blocked;
        }
        if (c->is_dead || c->out.len) continue;
        if (c->x && c->x->reply == REPLY_ENDED) {
            finish_exchange(c);
            is_moving = true;               /* a pipelined request may wait */
        } else if (c->phase == CONN_CLOSING) {
            begin_linger(c);
        }
    }
}

static void advance(qh_conn *c)
{
    if (c->is_dead) return;
    c->is_advancing = true;
    bool is_from_ahead = !c->in_len;
    if (is_from_ahead) c->in = c->ahead.data, c->in_len = c->ahead.len;
    settle(c);
    c->is_advancing = false;
    if (c->is_dead) return;
    if (!is_from_ahead) qh_str_append(&c->ahead, c->in, c->in_len);
    else if (c->ahead.len) qh_str_cut_front(&c->ahead, c->ahead.len - c->in_len);
    if (!c->ahead.len) qh_str_deinit(&c->ahead);
    c->in_len = 0;
    if (c->server->is_draining && conn_is_idle(c)) {
        conn_kill(c, QH_ECANCELED);
        return;
    }
    /* What TLS has decrypted already makes no descriptor readable. */
    if (c->tls && has_room(c) && qh_tls_has_pending(c->tls)) conn_mark_dirty(c);
    update_watch(c);
}

static void read_in(qh_conn *c)
{
    size_t n = 0;
    io_result r = read_some(c, c->server->scratch, SCRATCH_BYTES, &n);
    if (r == IO_END) {
        conn_kill(c, QH_ECLOSED);
        return;
    }
    if (r == IO_AGAIN) {
        /* A handshake may be waiting to write. */
        if (c->tls && qh_tls_wants_write(c->tls)) c->is_write_blocked = true;
        update_watch(c);
        return;
    }
    if (c->ahead.len) {
        qh_str_append(&c->ahead, c->server->scratch, n);
    } else {
        c->in = c->server->scratch;
        c->in_len = n;
    }
    advance(c);
}

void conn_turn(qh_conn *c)
{
    if (c->is_dead) return;
    if (c->tls && has_room(c) && qh_tls_has_pending(c->tls)) read_in(c);
    else advance(c);
}

static void on_ready(void *arg, int what)
{
    qh_conn *c = arg;
    if (what & QH_WRITABLE) c->is_write_blocked = false;
    if (what & QH_READABLE || (c->tls && has_room(c))) read_in(c);
    if (what & QH_WRITABLE && !c->is_dead) advance(c);
}

void conn_mark_dirty(qh_conn *c)
{
    if (c->is_dirty || c->is_advancing || c->is_dead) return;
    c->is_dirty = true;
    c->next_dirty = c->server->dirty;
    if (!c->server->dirty) server_schedule_dirty(c->server);
    c->server->dirty = c;
}

/* ---- time ---- */

static bool is_body_late(const qh_conn *c, const qh_exchange *x, int64_t now_us)
{
    const qh_server_limits *lim = &c->server->opts.limits;
    if (x->body_mode == BODY_UNASKED || x->is_body_done || x->is_body_paused) return false;
    int64_t allowed_us = lim->body_us + x->n_body_bytes / lim->body_min_rate * 1000000;
    return now_us - x->body_start_us > allowed_us;
}

/* While input is not being read the loop cannot tell that the client left: ask the kernel. */
static bool has_left_unseen(const qh_conn *c)
{
    if (c->watching & QH_READABLE) return false;
    struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

void conn_check_time(qh_conn *c, int64_t now_us)
{
    const qh_server_limits *lim = &c->server->opts.limits;
    int64_t age_us = now_us - c->phase_us;
    if (has_left_unseen(c)) {
        conn_kill(c, QH_ECLOSED);
        return;
    }
    if (c->is_write_blocked && now_us - c->progress_us > lim->stall_us) {
        conn_kill(c, QH_ETIMEDOUT);
        return;
    }
    switch (c->phase) {
    case CONN_HEAD:
        if (!qh_http1_is_idle(&c->parser)) {
            if (age_us > lim->head_us)
                fail(c, QH_ETIMEDOUT, 408, "request_timeout", "the request head came too slowly");
        } else if (age_us > (c->has_served ? lim->idle_us : lim->first_byte_us)) {
            conn_kill(c, QH_ETIMEDOUT);
        }
        break;
    case CONN_WORK:
        if (is_body_late(c, c->x, now_us))
            fail(c, QH_ETIMEDOUT, 408, "request_timeout", "the request body came too slowly");
        break;
    case CONN_DISCARD:
        if (age_us > lim->body_us) conn_kill(c, QH_ETIMEDOUT);
        break;
    case CONN_CLOSING:
        break;                              /* stall_us, above */
    case CONN_LINGER:
        if (age_us > LINGER_US) conn_kill(c, QH_OK);
        break;
    }
    if (!c->is_dead && c->phase == CONN_CLOSING) conn_mark_dirty(c);
}

bool conn_is_idle(const qh_conn *c)
{
    return c->phase == CONN_HEAD && qh_http1_is_idle(&c->parser) && !c->ahead.len && !c->out.len;
}

/* ---- life ---- */

void conn_open(qh_server *s, int fd, const char *peer, bool is_turned_away)
{
    qh_conn *c = qh_new0(qh_conn);
    c->server = s;
    c->fd = fd;
    c->is_turned_away = is_turned_away;
    snprintf(c->peer, sizeof c->peer, "%s", peer);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    qh_http1_init(&c->parser, s->opts.limits.head);
    set_phase(c, CONN_HEAD);
    c->progress_us = c->phase_us;
    server_conn_came(s, c);
    c->watching = QH_READABLE;
    if (s->tls && qh_tls_new(&c->tls, s->tls, fd)) {
        conn_kill(c, QH_ENOMEM);
    } else if (qh_watch_new(&c->watch, s->loop, fd, c->watching, on_ready, c, NULL)) {
        conn_kill(c, QH_EIO);
    } else if (is_turned_away) {
        fail(c, QH_ELIMIT, 503, "too_many_connections", "too many connections");
        conn_mark_dirty(c);
    }
}
