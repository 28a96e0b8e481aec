/* conn.h - inside core/net: one accepted connection, and the exchange at work on it.
 *
 *   conn.c      socket, parser, phases, timeouts: everything that comes from the network
 *   exchange.c  the public qh_exchange functions: everything that comes from the handler
 *   server.c    listeners, limits, the sweep, drain and stop
 *
 * A connection has at most one exchange. Handler functions only change state and mark the
 * connection dirty; conn_turn, called from the loop, does what follows from the state: parse,
 * call back, write, finish. So callbacks never nest, and pieces written in one turn share a system
 * call. A killed connection stays allocated until the end of the turn: frames below a callback
 * look at is_dead.
 *
 *     +------+ head complete  +------+ reply sent  +---------+ END
 *     | HEAD | -------------> | WORK | ----------> | DISCARD | ---> HEAD      keep-alive
 *     +------+                +------+             +---------+
 *        | malformed             | last reply sent, unread input
 *        v                       v
 *     +-----------------------------+ end of input, 2 s
 *     | LINGER (write side is shut) | ------------------> dead
 *     +-----------------------------+
 *
 * LINGER exists because closing a socket with unread input makes the kernel send a reset, which
 * may overtake the reply. */
#pragma once
#include "net/server.h"
#include "base/metric.h"

enum {
    SCRATCH_BYTES = 64 << 10,       /* one read */
    DISCARD_MAX_BYTES = 64 << 10,   /* of an unread body: more of it costs the connection */
    MAX_TURNED_AWAY = 128,          /* connections over max_conns that may still be told 503 */
    ID_BYTES = 24,
    PEER_BYTES = 64,
};
#define LINGER_US  ((int64_t)2000000)
#define SWEEP_US   ((int64_t)250000)    /* resolution of all timeouts */

typedef struct qh_conn qh_conn;

/* Bytes on their way out. */
typedef struct {
    char *data;                     /* owned */
    size_t start, len, cap;         /* len bytes from start */
} outbuf;
qh_status outbuf_append(outbuf *b, const void *data, size_t len_bytes);  /* QH_ENOMEM */
void      outbuf_take(outbuf *b, size_t len_bytes);
void      outbuf_deinit(outbuf *b);

typedef enum { BODY_UNASKED, BODY_WHOLE, BODY_PIECES } body_mode;
typedef enum { REPLY_NONE, REPLY_STREAM, REPLY_ENDED } reply_state;

struct qh_exchange {
    int n_refs;                     /* the handler's */
    qh_conn *conn;                  /* not owned; NULL once closed */
    bool is_closed;
    qh_http1_head head;
    char id[ID_BYTES], peer[PEER_BYTES];
    bool is_tls;
    int64_t start_us;
    const qh_exchange_ops *ops;     /* not owned; NULL: nobody is told */
    void *user;
    /* the body */
    body_mode body_mode;
    bool is_body_done, is_body_paused, is_body_told;
    int64_t max_body_bytes, n_body_bytes;
    int64_t body_start_us, pause_start_us;
    char *body;                     /* owned, BODY_WHOLE */
    size_t body_cap;
    void (*on_body)(void *user);
    void (*on_piece)(void *user, const char *data, size_t len_bytes, bool is_last);
    /* the reply */
    reply_state reply;
    int http_status;
    bool is_chunked, is_bodyless;   /* how the reply is framed */
    bool is_last;                   /* the connection ends with this reply */
    bool is_cut;                    /* ... without an end marker */
    bool wants_drain;
    int64_t n_reply_bytes, first_byte_us;
    qh_str tags;
    qh_str fields;                  /* that every reply to it gets, as lines */
};

typedef enum { CONN_HEAD, CONN_WORK, CONN_DISCARD, CONN_CLOSING, CONN_LINGER } conn_phase;

struct qh_conn {
    qh_server *server;              /* not owned */
    qh_conn *prev, *next;           /* server->conns, or next of server->dead */
    qh_conn *next_dirty;
    int fd;
    struct qh_tls *tls;             /* NULL: plain */
    qh_watch *watch;
    conn_phase phase;
    bool is_dead, is_dirty, is_advancing;
    bool is_turned_away;            /* over max_conns: not counted among them */
    bool has_served;                /* a request was handed over before: idle_us rather than first_byte_us */
    bool is_write_blocked;          /* the kernel took less: wait for QH_WRITABLE */
    int watching;                   /* what the watch asks for */
    qh_http1 parser;
    qh_exchange *x;                 /* WORK */
    const char *in;                 /* input at hand: in scratch or ahead */
    size_t in_len;
    qh_str ahead;                   /* input kept for later */
    outbuf out;
    int64_t phase_us;               /* when the phase, or in HEAD the first byte of a head, began */
    int64_t progress_us;            /* when the kernel last took less than there was; while is_write_blocked */
    int64_t n_discard_bytes;
    char peer[PEER_BYTES];
};

struct qh_server {
    qh_loop *loop;                  /* not owned */
    qh_server_opts opts;
    struct listener *listeners;     /* owned list */
    qh_conn *conns, *dead, *dirty;
    qh_timer *sweep;
    struct qh_tls_context *tls;     /* NULL: plain */
    char *scratch;                  /* one read's worth: reads do not nest */
    bool is_draining, is_accept_paused;
    void (*on_drained)(void *arg);
    void *drained_arg;
    int n_conns, n_turned_away, n_exchanges;
    int64_t n_accepted, n_requests, n_body_bytes;
    uint64_t id_seed;
    int64_t date_s;                 /* the second that date shows */
    char date[64];
    qh_metric *m_conns, *m_refused, *m_class[6];
};

/* conn.c */
void conn_open(qh_server *s, int fd, const char *peer, bool is_turned_away);
void conn_turn(qh_conn *c);             /* do what follows from the state; from the loop only */
void conn_mark_dirty(qh_conn *c);       /* conn_turn before the loop sleeps */
void conn_kill(qh_conn *c, qh_status why);
void conn_check_time(qh_conn *c, int64_t now_us);
bool conn_is_idle(const qh_conn *c);    /* nothing begun: may be closed any time */

/* exchange.c */
qh_exchange *exchange_new(qh_conn *c);
void exchange_close(qh_exchange *x, qh_status why);     /* detach from the connection, tell, log */
qh_status exchange_check_body(const qh_exchange *x);    /* once asked for: QH_ELIMIT, QH_EUNSUPPORTED */
/* QH_ELIMIT, QH_ENOMEM; QH_AGAIN: over the sum for all exchanges. */
qh_status exchange_take_body(qh_exchange *x, const char *data, size_t len_bytes);
void exchange_end_body(qh_exchange *x);                 /* the whole body is there: tell once */
void exchange_drain(qh_exchange *x);                    /* room in the queue: tell whoever waits */
/* Queue the server's own reply for a request that never became an exchange, or for x. */
void conn_queue_error(qh_conn *c, qh_exchange *x, int http_status, const char *code, const char *message);

/* server.c */
void server_conn_came(qh_server *s, qh_conn *c);
void server_conn_gone(qh_server *s, qh_conn *c);        /* unlink; free at the end of the turn */
void server_schedule_dirty(qh_server *s);
const char *server_date(qh_server *s);                  /* IMF-fixdate of now */
void server_count_reply(qh_server *s, int http_status);
