/* shared.h - small values in memory that all generations of an app share: qh.shared, qh.persist.
 *
 * A table maps keys to values, each with a time to live if wanted. Its size is bounded: one that
 * evicts drops what was used least recently, one that does not refuses to grow. Time is qh_now_us.
 * Thread: the loop thread. */
#pragma once
#include "base/err.h"

enum {
    QH_SHARED_MAX_TABLES = 64,
    QH_SHARED_MAX_KEY_BYTES = 1024,
    QH_SHARED_DEFAULT_BYTES = 16 << 20,
    QH_SHARED_MAX_BYTES = 256 << 20
};

typedef enum {
    QH_SHARED_BOOL,
    QH_SHARED_INT,
    QH_SHARED_FLOAT,
    QH_SHARED_TEXT,
    QH_SHARED_JSON,             /* text, of a table */
    QH_SHARED_BUCKET            /* a number of tokens: number, as of time `integer` */
} qh_shared_kind;

typedef struct {
    qh_shared_kind kind;
    int64_t integer;            /* also the bool */
    double number, size;        /* size: what a bucket holds when full */
    const char *text;           /* borrowed: to the next change of the table */
    size_t len_bytes;
} qh_shared_value;

typedef struct qh_shared qh_shared;
typedef struct qh_shareds qh_shareds;

qh_shareds *qh_shareds_new(void);
void        qh_shareds_free(qh_shareds *all);   /* NULL is fine */
/* The table of that name, made at the first call, which decides max_bytes (0: the default) and
 * whether it evicts. QH_ELIMIT: too many tables. */
qh_status   qh_shareds_get(qh_shareds *all, const char *name, size_t max_bytes, bool is_evicting,
                           qh_shared **out, qh_err *err);

/* NULL: not there, or over its time. */
const qh_shared_value *qh_shared_get(qh_shared *s, const char *key, size_t len);
/* ttl_us 0: for ever; negative: what it had. QH_ELIMIT: it is larger than the table, or the table is
 * full and does not evict. Nothing changes then. */
qh_status qh_shared_set(qh_shared *s, const char *key, size_t len, const qh_shared_value *v,
                        int64_t ttl_us, qh_err *err);
bool      qh_shared_del(qh_shared *s, const char *key, size_t len);
/* The key used most recently after `key` (NULL: of all) that begins with prefix; NULL: none. */
const char *qh_shared_next(qh_shared *s, const char *key, size_t key_len, const char *prefix,
                           size_t prefix_len, size_t *len);
size_t    qh_shared_bytes(const qh_shared *s);

/* A token bucket: it holds `size` tokens, `rate` flow in each `per_us`. Take cost of them if they are
 * there; more than it can hold are given when it is full, and paid back by a longer wait. */
typedef struct {
    double rate, size;
    int64_t per_us;
} qh_shared_rate;
qh_status qh_shared_take(qh_shared *s, const char *key, size_t len, double cost,
                         const qh_shared_rate *rate, bool *is_taken, double *wait_s, qh_err *err);
/* Put tokens back, or with a negative number take more, also below zero. No bucket: nothing. */
void      qh_shared_settle(qh_shared *s, const char *key, size_t len, double tokens);
