/* http1.h - HTTP/1.1 requests from bytes: strict, and fed in any split.
 *
 * A state machine over bytes that knows nothing of sockets (RFC 9112, field rules of RFC 9110).
 * Strict where leniency has let requests be smuggled past proxies: lines end in CRLF only; no space
 * around field names, no line folding, no control bytes; one Content-Length of digits only and never
 * beside a Transfer-Encoding; chunked is the last coding and named once; exactly one Host (at most
 * one in 1.0); names that become a framing field when '_' reads as '-' are refused, since some
 * gateways read them so. The target may hold UTF-8 beyond ASCII (browsers and curl send it).
 *
 *     +------+  request line, fields  +-------------+        +-----+
 *     | HEAD | ---------------------> | BODY pieces | -----> | END | --> next HEAD
 *     +------+         HEAD           +-------------+  END   +-----+
 *
 * After BAD the connection is lost: where the next request begins cannot be known.
 * Thread: one owner at a time. */
#pragma once
#include "base/err.h"
#include "base/str.h"

typedef struct {
    const char *name, *value;       /* NUL-terminated; names compare without case */
} qh_http_field;

typedef struct {
    size_t max_line_bytes;          /* the request line, with its CRLF: 414 */
    size_t max_field_bytes;         /* one field line, with its CRLF: 431 */
    size_t max_head_bytes;          /* all of a head, or of a trailer section: 431 */
    int    max_fields;              /* of a head, or of a trailer section: 431 */
} qh_http1_limits;

/* A request's head. Strings point into text. */
typedef struct {
    qh_str text;
    const char *method;             /* "GET"; any token without lower-case letters */
    const char *target;             /* as received */
    const char *path;               /* before '?' and '#', not decoded; never empty: "/" at least, "*", or
                                     * CONNECT's host:port */
    const char *query;              /* between '?' and '#', not decoded; NULL: no '?' */
    char *split;                    /* owned: what path and query point to */
    qh_http_field *fields;          /* owned, in order */
    int n_fields;
    int version;                    /* 10 or 11 */
    int64_t body_len_bytes;         /* -1: chunked */
    bool is_keep_alive;             /* the client wants the connection kept */
    bool has_expect;                /* Expect: 100-continue, in HTTP/1.1 */
    bool has_coding;                /* a transfer coding besides chunked: the body's bytes are still coded */
} qh_http1_head;

void        qh_http1_head_deinit(qh_http1_head *h);
const char *qh_http1_head_get(const qh_http1_head *h, const char *name); /* first of that name, or NULL */

typedef enum {
    QH_HTTP1_MORE,                  /* all bytes used, nothing complete */
    QH_HTTP1_HEAD,                  /* qh_http1_take_head */
    QH_HTTP1_BODY,                  /* piece holds body bytes, borrowed from data */
    QH_HTTP1_END,                   /* the message is complete; the next byte begins another */
    QH_HTTP1_BAD,                   /* see bad; feed it no more */
} qh_http1_event;

typedef struct {
    int http_status;                /* 400, 414, 417, 431, 501, 505 */
    const char *code;               /* "malformed_request", "request_line_too_long" ...; static storage */
    const char *message;            /* what was wrong; static storage */
} qh_http1_error;

/* Fields are for http1.c, except bad, piece and piece_len_bytes. */
typedef struct {
    qh_http1_limits limits;
    int state;
    size_t line_start;              /* of the line being read, in head.text */
    size_t section_bytes;           /* of this head or trailer section so far */
    int n_section_fields;
    size_t *offsets;                /* owned: pairs name, value in head.text */
    int n_offsets, cap_offsets;
    qh_http1_head head;
    int64_t left_bytes;             /* of the body or the chunk */
    int n_size_digits;              /* of this chunk's size */
    size_t n_ext_bytes;             /* of chunk extensions in this body */
    unsigned seen;                  /* single-use fields of this head */
    bool is_chunked;                /* a chunked coding was named, and it is the last so far */
    const char *piece;
    size_t piece_len_bytes;
    qh_http1_error bad;
} qh_http1;

void qh_http1_init(qh_http1 *p, qh_http1_limits limits);
void qh_http1_deinit(qh_http1 *p);

/* Use some of data and say what became of it; call again with the rest until MORE or BAD. After HEAD
 * take the head before feeding on; END may come without using a byte. */
qh_http1_event qh_http1_feed(qh_http1 *p, const char *data, size_t len_bytes, size_t *used);
/* The input ended here. QH_EFORMAT: in the middle of a request (bad says where). */
qh_status qh_http1_finish(qh_http1 *p);
/* After HEAD: moves the head out; the caller owns it. */
qh_http1_head qh_http1_take_head(qh_http1 *p);
bool qh_http1_is_idle(const qh_http1 *p);       /* between requests: no byte of the next one seen */

/* What a reply may carry, by the same rules. */
bool qh_http1_is_token(const char *s);
bool qh_http1_is_field_value(const char *s);
