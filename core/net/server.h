/* server.h - an HTTP/1.1 server on a qh_loop: listeners, connections, requests and their replies.
 *
 * One qh_exchange is one request with its reply. The life of an exchange:
 *
 *   head parsed -> on_request(x)            the handler now holds one reference
 *                    qh_exchange_watch      (inside on_request) whom to tell
 *                    qh_exchange_read_body  whole, or qh_exchange_stream_body in pieces; optional
 *                    qh_exchange_reply      whole, or _begin, _write..., _end
 *                  ops.on_close(user, why)  once: nothing more will be sent or received
 *                    qh_exchange_unref      at any time; the request stays readable until then
 *
 * Whatever ends an exchange takes the one path on_close, with a status that says why:
 *   QH_OK        the reply was handed to the kernel
 *   QH_ECLOSED   the client left (end of its input counts, in every phase, seen within 1 s; hidden
 *                only behind more unread body or pipelined input than max_ahead_bytes and the
 *                kernel's buffer hold), or the handler cut the connection
 *   QH_ETIMEDOUT the body came too slowly (answered with 408) or the reader stalled
 *   QH_EFORMAT   malformed body (answered with 400)
 *   QH_ELIMIT    body over its limit (answered with 413)
 *   QH_ECANCELED the server was stopped
 * Callbacks come from the loop, never from inside a function that the handler itself calls
 * (qh_server_stop and _free excepted). After on_close reply functions return QH_ECLOSED and do
 * nothing. When the last reference goes while no reply was begun, the client gets a 500; when one
 * was begun and not ended, the connection is cut, so that the client sees that it is incomplete.
 *
 * Requests that break RFC 9110/9112 or a limit never reach on_request: the server answers them
 * with a JSON error and closes. Pipelined requests are handed over one at a time, in order.
 * Thread: the loop thread only. */
#pragma once
#include "base/err.h"
#include "base/str.h"
#include "net/http1.h"
#include "net/loop.h"

typedef struct qh_server qh_server;
typedef struct qh_exchange qh_exchange;

/* ---- the server ---- */

typedef struct {
    qh_http1_limits head;           /* lines, fields and their sum */
    int64_t max_body_bytes;         /* for bodies whose reader names no cap of its own; 413 */
    int64_t max_body_total_bytes;   /* kept by qh_exchange_read_body, all exchanges together; 503 */
    size_t  max_ahead_bytes;        /* read ahead of the request at work: pipelined ones, unread body */
    size_t  max_queued_bytes;       /* unsent reply bytes above which qh_exchange_write says QH_AGAIN */
    int     max_conns;              /* one more is answered 503 and closed */
    int64_t first_byte_us;          /* from accept to the first byte of a request; then closed */
    int64_t head_us;                /* from the first byte of a head to its end; 408 */
    int64_t body_us;                /* a body may take this long ... */
    int64_t body_min_rate;          /* ... plus one second for every so many bytes; 408 */
    int64_t idle_us;                /* between two requests of a connection; then closed */
    int64_t stall_us;               /* a reader that takes no byte of a waiting reply; then closed */
} qh_server_limits;
extern const qh_server_limits qh_server_limits_default;

typedef struct {
    /* A request's head is complete. The handler holds a reference from now on. */
    void (*on_request)(void *arg, qh_exchange *x);
    /* Optional: the body of a reply that the server makes itself. Append JSON to out. code is a
     * stable word such as "malformed_request" or "body_too_large". Must not call the server. Without
     * it, or when out stays empty: {"error":{"message":...,"type":...,"code":...}}. */
    void (*format_error)(void *arg, int http_status, const char *code, const char *message,
                         qh_str *out);
    void *arg;
    qh_server_limits limits;        /* zeroed members take the default */
    const char *tls_cert, *tls_key; /* PEM files, both or none: HTTPS. Copied */
    bool no_access_log;             /* else one qh_info("http.access", ...) line a request */
} qh_server_opts;

qh_status qh_server_new(qh_server **out, qh_loop *l, const qh_server_opts *opts, qh_err *err);
/* host: an address, or a name and all its addresses; port 0 takes a free one. May be called more than
 * once. QH_EEXIST: the port is taken. */
qh_status qh_server_listen(qh_server *s, const char *host, int port, qh_err *err);
int       qh_server_port(const qh_server *s);   /* of the first listener; 0 before listen */
/* Read the TLS files again for connections to come. On failure the old ones stay in use. */
qh_status qh_server_reload_tls(qh_server *s, qh_err *err);
/* Stop accepting, close idle connections, finish the requests at work; then done(arg), once. */
void      qh_server_drain(qh_server *s, void (*done)(void *arg), void *arg);
/* Hard stop: every open exchange gets on_close(QH_ECANCELED) before this returns. */
void      qh_server_stop(qh_server *s);
/* Stops; NULL is fine. Not from inside a callback, but for the done of a drain. Exchanges still held stay readable. */
void      qh_server_free(qh_server *s);

typedef struct {
    int n_conns, n_exchanges;       /* open now */
    int64_t n_accepted, n_requests; /* ever */
} qh_server_counts;
qh_server_counts qh_server_count(const qh_server *s);

/* ---- the request: readable from on_request until unref ---- */

void        qh_exchange_ref(qh_exchange *x);
void        qh_exchange_unref(qh_exchange *x);            /* NULL is fine */
const char *qh_exchange_method(const qh_exchange *x);     /* "GET"; any token */
const char *qh_exchange_target(const qh_exchange *x);     /* as received */
const char *qh_exchange_path(const qh_exchange *x);       /* "/a%20b": before '?', not decoded; "*" for OPTIONS * */
const char *qh_exchange_query(const qh_exchange *x);      /* after '?', not decoded; NULL: no '?' */
int         qh_exchange_version(const qh_exchange *x);    /* 10 or 11 */
const char *qh_exchange_peer(const qh_exchange *x);       /* "127.0.0.1:50412", "[::1]:50412" */
bool        qh_exchange_is_tls(const qh_exchange *x);
const char *qh_exchange_id(const qh_exchange *x);         /* unique; also sent as X-Request-Id */
int64_t     qh_exchange_start_us(const qh_exchange *x);   /* qh_now_us when its head was complete */
int         qh_exchange_n_headers(const qh_exchange *x);
qh_http_field qh_exchange_header_at(const qh_exchange *x, int i);        /* in order, duplicates kept */
const char *qh_exchange_header(const qh_exchange *x, const char *name);  /* the first of that name, or NULL */
int64_t     qh_exchange_body_length(const qh_exchange *x); /* announced; 0: none; -1: chunked, not known */

/* ---- whom to tell ---- */

typedef struct {
    void (*on_close)(void *user, qh_status why);
    void (*on_drain)(void *user);   /* after a write said QH_AGAIN: there is room again. May be NULL */
} qh_exchange_ops;
/* Call inside on_request. ops is kept, not copied. */
void  qh_exchange_watch(qh_exchange *x, const qh_exchange_ops *ops, void *user);
void *qh_exchange_user(const qh_exchange *x);
bool  qh_exchange_is_closed(const qh_exchange *x);        /* on_close has been or is being called */

/* ---- the body: read only when asked for ---- */

/* Collect the whole body, then call on_body(user). max_bytes 0: the server's limit. A body that
 * fails ends the exchange through on_close. QH_EINVAL: the body was asked for before. */
qh_status   qh_exchange_read_body(qh_exchange *x, int64_t max_bytes, void (*on_body)(void *user));
const char *qh_exchange_body(const qh_exchange *x, size_t *len_bytes); /* NUL-terminated; "" before on_body */
/* Hand the body over in pieces as it comes. data is borrowed for the call; is_last comes once, at
 * the end, perhaps with no bytes. Between pause and resume no piece comes: the client is held back. */
qh_status   qh_exchange_stream_body(qh_exchange *x, int64_t max_bytes,
                                    void (*on_piece)(void *user, const char *data, size_t len_bytes,
                                                     bool is_last));
void        qh_exchange_pause_body(qh_exchange *x);
void        qh_exchange_resume_body(qh_exchange *x);

/* ---- the reply ----
 * The server adds Date, Content-Length or Transfer-Encoding, Connection and X-Request-Id; of these
 * the handler may give only "Connection: close". QH_EINVAL: the reply was begun before, a field name
 * that is no token, a value with CR, LF, NUL or another control, a status outside 200..599. For HEAD,
 * 204 and 304 the body is not sent. fields, body and data are copied. */
qh_status qh_exchange_reply(qh_exchange *x, int http_status, const qh_http_field *fields,
                            int n_fields, const void *body, size_t len_bytes);
/* A reply of unknown length: chunked, or until close for an HTTP/1.0 client. The head is sent at once. */
qh_status qh_exchange_begin(qh_exchange *x, int http_status, const qh_http_field *fields, int n_fields);
/* QH_OK: taken whole. QH_AGAIN: nothing taken, the queue is over max_queued_bytes; on_drain follows.
 * QH_ECLOSED: the client is gone. Pieces written in one turn leave in one system call. */
qh_status qh_exchange_write(qh_exchange *x, const void *data, size_t len_bytes);
qh_status qh_exchange_end(qh_exchange *x);
/* What is queued still goes out, then the connection is cut without the end marker: the client must
 * not take this for a whole reply. */
void      qh_exchange_abort(qh_exchange *x);
bool      qh_exchange_is_begun(const qh_exchange *x);     /* reply or begin was called */
/* A whole reply in the shape of format_error, with further fields (Retry-After ...). */
qh_status qh_exchange_reply_error(qh_exchange *x, int http_status, const char *code,
                                  const char *message, const qh_http_field *fields, int n_fields);
/* One more field for whatever reply comes; nothing once it was begun. Name and value are the host's
 * own words, taken as they are. */
void      qh_exchange_add_field(qh_exchange *x, const char *name, const char *value);
/* One more key=value on the access-log line; value is quoted as needed. */
void      qh_exchange_tag(qh_exchange *x, const char *key, const char *value);
