/* http1_drive.h - feed a parser a whole input in pieces of one size, and write down what came. */
#pragma once
#include "base/mem.h"
#include "net/http1.h"
#include <string.h>
#include <strings.h>

typedef struct {
    int n_requests;             /* complete ones */
    qh_http1_head last;         /* head of the last one begun */
    qh_str bodies;              /* of all of them, one behind the other */
    qh_status status;           /* QH_EFORMAT: refused, or the input ended too early */
    qh_http1_error bad;
} http1_run;

static const qh_http1_limits http1_default_limits = {
    .max_line_bytes = 8190, .max_field_bytes = 8190, .max_head_bytes = 65536, .max_fields = 100};

/* Stops behind the first request that does not keep the connection, as a server does. Each piece
 * is fed from a block of its own size, so that a sanitizer sees a read past its end. */
static inline http1_run http1_drive(qh_http1_limits limits, const char *data, size_t len,
                                    size_t piece)
{
    http1_run r = {0};
    qh_http1 p;
    qh_http1_init(&p, limits);
    bool is_over = false;
    for (size_t at = 0; at < len && !is_over;) {
        size_t n = len - at < piece ? len - at : piece;
        char *copy = qh_alloc0(n);
        memcpy(copy, data + at, n);
        at += n;
        size_t done = 0, used;
        for (qh_http1_event ev = QH_HTTP1_HEAD; ev != QH_HTTP1_MORE && !is_over; done += used) {
            ev = qh_http1_feed(&p, copy + done, n - done, &used);
            if (ev == QH_HTTP1_HEAD) {
                qh_http1_head_deinit(&r.last);
                r.last = qh_http1_take_head(&p);
            } else if (ev == QH_HTTP1_BODY) {
                qh_str_append(&r.bodies, p.piece, p.piece_len_bytes);
            } else if (ev == QH_HTTP1_END) {
                r.n_requests++;
                is_over = !r.last.is_keep_alive;
            } else if (ev == QH_HTTP1_BAD) {
                is_over = true;
            }
        }
        qh_free(copy);
    }
    r.status = qh_http1_finish(&p);
    r.bad = p.bad;
    qh_http1_deinit(&p);
    return r;
}

static inline void http1_run_deinit(http1_run *r)
{
    qh_http1_head_deinit(&r->last);
    qh_str_deinit(&r->bodies);
}
