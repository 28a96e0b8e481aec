/* store.h - data that survives: SQLite files, each with a connection and a thread of its own.
 *
 * A store is one file <folder>/<name>.db in WAL mode. Everything that touches it runs on its
 * thread, in the order in which it was asked for; a batch of several statements is one transaction.
 * What scripts may say is limited: no ATTACH, no VACUUM INTO, few pragmas, no transaction that
 * outlives a call.
 *
 * Two tables are there from the start:
 *     kv(key TEXT PRIMARY KEY, value TEXT)                  value: JSON
 *     stream(stream TEXT, id INTEGER, at REAL, value TEXT)  PRIMARY KEY (stream, id)
 *
 * Thread: the loop thread, but for qh_store_run. */
#pragma once
#include "base/str.h"
#include "base/workers.h"
#include "net/loop.h"
#include <stdatomic.h>

enum {
    QH_STORE_MAX_STATEMENTS = 1000, /* of a batch */
    QH_STORE_MAX_ROWS = 10000,      /* of a result */
    QH_STORE_MAX_RESULT_BYTES = 16 << 20,
    QH_STORE_MAX_VALUE_BYTES = 16 << 20,
    QH_STORE_MAX_SQL_BYTES = 100000
};

typedef struct qh_store qh_store;
typedef struct qh_stores qh_stores;

/* All stores of a host. dir: made at first use; copied; NULL: there are none. */
qh_stores *qh_stores_new(qh_loop *loop, const char *dir);
/* Waits for what is at work. NULL is fine. */
void qh_stores_free(qh_stores *s);
/* The store of that name, the same for the same name; its file is opened by the first batch.
 * QH_EINVAL: no name for a file; QH_ELIMIT: too many. Belongs to s. */
qh_status qh_stores_get(qh_stores *s, const char *name, qh_store **out, qh_err *err);
qh_workers *qh_store_workers(qh_store *s);
const char *qh_store_name(const qh_store *s);

typedef enum { QH_CELL_NULL, QH_CELL_INT, QH_CELL_REAL, QH_CELL_TEXT, QH_CELL_BLOB } qh_cell_kind;

typedef struct {
    char *name; /* without ':'; NULL: by position */
    qh_cell_kind kind;
    int64_t integer;
    double real;
    char *data; /* text and blobs */
    size_t len_bytes;
} qh_store_param;

typedef struct {
    char *sql;
    qh_store_param *params;
    int n_params;
    /* the result: n_rows rows of n_columns cells, read with qh_cell_next */
    char **columns;
    int n_columns, n_rows;
    qh_str cells;
    int64_t n_changes, last_id;
} qh_store_statement;

typedef struct {
    qh_store_statement *statements;
    int n;
    int64_t timeout_us;
    atomic_bool is_cancelled; /* set by any thread: it ends at the next look */
    qh_err err;               /* of the run; names the store, and the SQL */
} qh_store_batch;

/* On the store's thread. Either all of it happens or nothing; batch->err tells. */
void qh_store_run(qh_store *s, qh_store_batch *batch);
void qh_store_batch_deinit(qh_store_batch *batch);

typedef struct {
    qh_cell_kind kind;
    int64_t integer;
    double real;
    const char *data; /* into the cells */
    size_t len_bytes;
} qh_cell;
/* Read the next cell; at begins with 0. */
qh_cell qh_cell_next(const qh_str *cells, size_t *at);
