/* fetch.h - an HTTP client on the loop (libcurl): for qh.fetch, upstreams and downloads.
 *
 * A fetcher keeps connections alive and belongs to one loop; a fetch is one request. HTTP/1.1 over
 * http and https, certificates checked, proxies taken from the environment as curl does. Redirects
 * are followed here, hop by hop: each is put to allow() again, none leads from https to http, and
 * credentials (Authorization, Cookie) stay with the origin that they were meant for.
 *
 * on_done comes once, from the loop; after it, or instead of it, the owner frees the fetch. Freeing
 * a running fetch cancels it silently, also from inside its own callbacks.
 * Thread: the loop thread. */
#pragma once
#include "net/http1.h"
#include "net/loop.h"

typedef struct qh_fetcher qh_fetcher;
typedef struct qh_fetch qh_fetch;

qh_status qh_fetcher_new(qh_fetcher **out, qh_loop *l, qh_err *err);
void      qh_fetcher_free(qh_fetcher *f);       /* NULL is fine; free its fetches first */

typedef struct {
    const char *url, *method;       /* method NULL: GET, or POST with a body */
    const qh_http_field *fields;    /* of the request */
    int n_fields;
    const void *body;               /* copied; NULL: none */
    size_t body_len_bytes;

    int64_t connect_us;             /* 0: 10 s */
    int64_t timeout_us;             /* for all of it; 0: none */
    int64_t idle_us;                /* longest time without a byte, at least 1 s; 0: 60 s */
    int64_t max_body_bytes;         /* of the reply; 0: 16 MB */
    int max_redirects;              /* 0: a redirect is the reply */

    /* Called before every connection, redirects included; not QH_OK: err says why not. NULL: anything. */
    qh_status (*allow)(void *user, const char *scheme, const char *host, int port, qh_err *err);
    /* The final reply's status and headers are there. May be NULL. */
    void (*on_head)(void *user);
    /* A piece of the body. QH_AGAIN: not taken, it comes again after qh_fetch_resume. Any other failure
     * ends the fetch with that status. NULL: the body is collected. */
    qh_status (*on_body)(void *user, const char *data, size_t len_bytes);
    /* QH_OK: a reply came whole, whatever its HTTP status. QH_ETIMEDOUT, QH_ELIMIT, QH_EACCES (allow,
     * redirect), QH_EIO (name, connection, TLS, cut short), QH_EFORMAT (not HTTP). err borrowed. */
    void (*on_done)(void *user, qh_status st, const qh_err *err);
    void *user;
} qh_fetch_opts;

/* QH_EINVAL: bad URL, method or field; QH_EACCES: allow said no. Everything in opts is copied. */
qh_status   qh_fetch_start(qh_fetch **out, qh_fetcher *f, const qh_fetch_opts *opts, qh_err *err);
void        qh_fetch_free(qh_fetch *x);         /* NULL is fine */
void        qh_fetch_resume(qh_fetch *x);       /* after on_body said QH_AGAIN */

/* Of the reply, from on_head on. Strings live until qh_fetch_free. */
int         qh_fetch_status(const qh_fetch *x);
int         qh_fetch_n_headers(const qh_fetch *x);
qh_http_field qh_fetch_header_at(const qh_fetch *x, int i);
const char *qh_fetch_header(const qh_fetch *x, const char *name);   /* the first of that name, or NULL */
const char *qh_fetch_body(const qh_fetch *x, size_t *len_bytes);    /* collected so far; NUL-terminated */
const char *qh_fetch_url(const qh_fetch *x);    /* where the reply came from, after redirects */
/* A header of the first hop, which a redirect does not hide (a hub names the file's hash there). */
const char *qh_fetch_first_header(const qh_fetch *x, const char *name);
