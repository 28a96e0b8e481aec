/* store.c - see store.h */
#include "lua/store.h"
#include "base/clock.h"
#include "base/mem.h"
#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
    MAX_STORES = 32,
    MAX_NAME_BYTES = 64,
    MAX_QUEUED = 256,  /* batches of one store that wait */
    MAX_PREPARED = 32, /* statements kept */
    BUSY_US = 5000000, /* that another process may hold the file */
    LOOK_EVERY = 1000  /* steps of SQLite's machine between two looks at the clock */
};

typedef struct {
    char *sql;
    sqlite3_stmt *stmt;
} prepared;

struct qh_store {
    qh_store *next;
    char *name, *dir;
    qh_waker *waker;
    qh_workers *workers; /* one thread */

    /* of that thread */
    sqlite3 *db; /* NULL: not open yet */
    prepared prepared[MAX_PREPARED];
    int next_prepared;
    qh_store_batch *batch; /* at work */
    int64_t deadline_us;
    bool is_ours; /* the statement being prepared is not a script's */
};

struct qh_stores {
    qh_loop *loop;
    char *dir;
    qh_store *first;
    int n;
};

/* ---- failures ---- */

static bool is_over(const qh_store *s)
{
    return atomic_load(&s->batch->is_cancelled) || qh_now_us() >= s->deadline_us;
}

static qh_status status_of(const qh_store *s, int rc)
{
    switch (rc & 0xff) {
    case SQLITE_INTERRUPT:
        return s->batch && atomic_load(&s->batch->is_cancelled) ? QH_ECANCELED : QH_ETIMEDOUT;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return QH_AGAIN;
    case SQLITE_CONSTRAINT: return QH_EEXIST;
    case SQLITE_AUTH: return QH_EACCES;
    case SQLITE_TOOBIG: return QH_ELIMIT;
    case SQLITE_NOMEM: return QH_ENOMEM;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return QH_EFORMAT;
    case SQLITE_IOERR:
    case SQLITE_FULL:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY: return QH_EIO;
    default: return QH_EINVAL;
    }
}

/* "store 'notes': no such table: x, at byte 15 of: SELECT * FROM x" */
static qh_status fail_sql(qh_store *s, int rc, const char *sql, qh_err *err)
{
    qh_status st = status_of(s, rc);
    const char *why = st == QH_ETIMEDOUT ? "it took too long" : sqlite3_errmsg(s->db);
    int at = st == QH_EINVAL ? sqlite3_error_offset(s->db) : -1, len = (int)strnlen(sql, 201);
    char place[40] = "in";
    if (at >= 0) snprintf(place, sizeof place, "at byte %d of", at + 1);
    return qh_fail(err, st, "store '%s': %s, %s: %.*s%s", s->name, why, place,
                   len > 200 ? 200 : len, sql, len > 200 ? "..." : "");
}

/* ---- what scripts may say ---- */

static bool is_allowed_pragma(const char *name, const char *value)
{
    static const char *const READ[] = {"table_info",      "table_xinfo", "table_list",
                                       "index_list",      "index_info",  "foreign_key_list",
                                       "integrity_check", "quick_check"};
    for (size_t i = 0; i < sizeof READ / sizeof *READ; i++)
        if (sqlite3_stricmp(name, READ[i]) == 0) return true;
    return sqlite3_stricmp(name, "user_version") == 0 ||
           (sqlite3_stricmp(name, "page_count") == 0 && !value);
}

static int authorize(void *arg, int action, const char *a, const char *b, const char *c,
                     const char *d)
{
    (void)c, (void)d;
    const qh_store *s = arg;
    if (s->is_ours) return SQLITE_OK;
    switch (action) {
    case SQLITE_ATTACH:
    case SQLITE_DETACH:
    case SQLITE_TRANSACTION:
    case SQLITE_SAVEPOINT:
    case SQLITE_CREATE_VTABLE:
    case SQLITE_DROP_VTABLE: return SQLITE_DENY;
    case SQLITE_PRAGMA: return is_allowed_pragma(a, b) ? SQLITE_OK : SQLITE_DENY;
    default: return SQLITE_OK;
    }
}

/* ---- opening ---- */

static qh_status make_folders(const char *dir, qh_err *err)
{
    char *path = qh_strdup(dir);
    qh_status st = QH_OK;
    for (char *p = path + 1; !st; p++) {
        if (*p && *p != '/') continue;
        char kept = *p;
        *p = 0;
        if (mkdir(path, 0700) && errno != EEXIST)
            st = qh_fail(err, QH_EIO, "the data folder %s: %s", path, strerror(errno));
        *p = kept;
        if (!kept) break;
    }
    qh_free(path);
    return st;
}

static int on_progress(void *arg)
{
    return is_over(arg);
}

static int on_busy(void *arg, int n_tries)
{
    const qh_store *s = arg;
    (void)n_tries;
    if (is_over(s) || qh_now_us() >= s->deadline_us) return 0;
    qh_sleep_us(n_tries < 10 ? 1000 : 10000);
    return (int64_t)n_tries * 10000 < BUSY_US;
}

static qh_status run_ours(qh_store *s, const char *sql, qh_err *err)
{
    s->is_ours = true;
    int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    s->is_ours = false;
    return rc ? fail_sql(s, rc, sql, err) : QH_OK;
}

static void harden(qh_store *s)
{
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_DQS_DML, 0, NULL);
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_DQS_DDL, 0, NULL);
    sqlite3_limit(s->db, SQLITE_LIMIT_LENGTH, QH_STORE_MAX_VALUE_BYTES + 1024);
    sqlite3_limit(s->db, SQLITE_LIMIT_SQL_LENGTH, QH_STORE_MAX_SQL_BYTES);
    sqlite3_limit(s->db, SQLITE_LIMIT_ATTACHED, 0);
    sqlite3_limit(s->db, SQLITE_LIMIT_EXPR_DEPTH, 200);
    sqlite3_extended_result_codes(s->db, 1);
    sqlite3_busy_handler(s->db, on_busy, s);
    sqlite3_progress_handler(s->db, LOOK_EVERY, on_progress, s);
    sqlite3_set_authorizer(s->db, authorize, s);
}

static qh_status open_db(qh_store *s, qh_err *err)
{
    static const char SETUP[] =
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;"
        "PRAGMA journal_size_limit = 67108864;"
        "CREATE TABLE IF NOT EXISTS kv(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
        "CREATE TABLE IF NOT EXISTS stream(stream TEXT NOT NULL, id INTEGER NOT NULL,"
        " at REAL NOT NULL, value TEXT NOT NULL, PRIMARY KEY (stream, id)) WITHOUT ROWID;";
    qh_status st = make_folders(s->dir, err);
    if (st) return st;
    qh_str path = {0};
    qh_str_appendf(&path, "%s/%s.db", s->dir, s->name);
    int rc =
        sqlite3_open_v2(qh_str_z(&path), &s->db,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc)
        st = qh_fail(err, QH_EIO, "store '%s': %s: %s", s->name, qh_str_z(&path),
                     s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(rc));
    if (!st) {
        harden(s);
        st = run_ours(s, SETUP, err);
    }
    if (st) {
        sqlite3_close(s->db);
        s->db = NULL;
    }
    qh_str_deinit(&path);
    return st;
}

/* ---- statements ---- */

static qh_status prepare(qh_store *s, const char *sql, sqlite3_stmt **out, qh_err *err)
{
    for (int i = 0; i < MAX_PREPARED; i++)
        if (s->prepared[i].sql && strcmp(s->prepared[i].sql, sql) == 0) {
            *out = s->prepared[i].stmt;
            return QH_OK;
        }
    const char *rest;
    int rc = sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, &rest);
    if (rc) return fail_sql(s, rc, sql, err);
    if (!*out) return qh_fail(err, QH_EINVAL, "store '%s': the SQL is empty", s->name);
    rest += strspn(rest, " \t\r\n;");
    if (*rest) {
        sqlite3_finalize(*out);
        return qh_fail(err, QH_EINVAL,
                       "store '%s': one statement at a time; after the first comes: %.60s", s->name,
                       rest);
    }
    prepared *p = &s->prepared[s->next_prepared++ % MAX_PREPARED];
    sqlite3_finalize(p->stmt);
    qh_free(p->sql);
    *p = (prepared){qh_strdup(sql), *out};
    return QH_OK;
}

/* Where a parameter goes: its position, or 0. */
static int index_of(sqlite3_stmt *stmt, const char *name)
{
    char full[MAX_NAME_BYTES + 2];
    for (const char *mark = ":@$"; *mark; mark++) {
        snprintf(full, sizeof full, "%c%s", *mark, name);
        int at = sqlite3_bind_parameter_index(stmt, full);
        if (at) return at;
    }
    return 0;
}

static int bind_one(sqlite3_stmt *stmt, int at, const qh_store_param *p)
{
    switch (p->kind) {
    case QH_CELL_INT: return sqlite3_bind_int64(stmt, at, p->integer);
    case QH_CELL_REAL: return sqlite3_bind_double(stmt, at, p->real);
    case QH_CELL_TEXT:
        return sqlite3_bind_text64(stmt, at, p->data, p->len_bytes, SQLITE_STATIC, SQLITE_UTF8);
    case QH_CELL_BLOB:
        return sqlite3_bind_blob64(stmt, at, p->data ? p->data : "", p->len_bytes, SQLITE_STATIC);
    default: return sqlite3_bind_null(stmt, at);
    }
}

static qh_status bind(qh_store *s, sqlite3_stmt *stmt, const qh_store_statement *q, qh_err *err)
{
    int n = sqlite3_bind_parameter_count(stmt), n_bound = 0;
    for (int i = 0; i < q->n_params; i++) {
        const qh_store_param *p = &q->params[i];
        int at = p->name ? index_of(stmt, p->name) : i + 1;
        if (!at || at > n)
            return p->name ? qh_fail(err, QH_EINVAL,
                                     "store '%s': there is no parameter '%.60s' in: %.200s",
                                     s->name, p->name, q->sql)
                           : qh_fail(err, QH_EINVAL,
                                     "store '%s': %d values for %d parameters in: %.200s", s->name,
                                     q->n_params, n, q->sql);
        int rc = bind_one(stmt, at, p);
        if (rc) return fail_sql(s, rc, q->sql, err);
        n_bound++;
    }
    if (n_bound < n)
        return qh_fail(err, QH_EINVAL, "store '%s': %d values for %d parameters in: %.200s",
                       s->name, n_bound, n, q->sql);
    return QH_OK;
}

/* ---- results: a cell is its kind, then 8 bytes of number, or 4 of length and the bytes ---- */

static void keep_cell(qh_str *out, sqlite3_stmt *stmt, int column)
{
    int type = sqlite3_column_type(stmt, column);
    if (type == SQLITE_INTEGER) {
        int64_t v = sqlite3_column_int64(stmt, column);
        qh_str_append_c(out, QH_CELL_INT);
        qh_str_append(out, &v, sizeof v);
    } else if (type == SQLITE_FLOAT) {
        double v = sqlite3_column_double(stmt, column);
        qh_str_append_c(out, QH_CELL_REAL);
        qh_str_append(out, &v, sizeof v);
    } else if (type == SQLITE_NULL) {
        qh_str_append_c(out, QH_CELL_NULL);
    } else {
        const void *data = sqlite3_column_blob(stmt, column); /* of a text: its bytes */
        uint32_t len = (uint32_t)sqlite3_column_bytes(stmt, column);
        qh_str_append_c(out, type == SQLITE_TEXT ? QH_CELL_TEXT : QH_CELL_BLOB);
        qh_str_append(out, &len, sizeof len);
        if (len) qh_str_append(out, data, len);
    }
}

qh_cell qh_cell_next(const qh_str *cells, size_t *at)
{
    const char *p = cells->data + *at;
    qh_cell c = {.kind = (qh_cell_kind)*p++};
    uint32_t len = 0;
    if (c.kind == QH_CELL_INT) {
        memcpy(&c.integer, p, sizeof c.integer);
        p += sizeof c.integer;
    } else if (c.kind == QH_CELL_REAL) {
        memcpy(&c.real, p, sizeof c.real);
        p += sizeof c.real;
    } else if (c.kind != QH_CELL_NULL) {
        memcpy(&len, p, sizeof len);
        c.data = p + sizeof len;
        c.len_bytes = len;
        p += sizeof len + len;
    }
    *at = (size_t)(p - cells->data);
    return c;
}

static void keep_columns(qh_store_statement *q, sqlite3_stmt *stmt)
{
    q->n_columns = sqlite3_column_count(stmt);
    q->columns = qh_alloc0(sizeof *q->columns * (size_t)(q->n_columns ? q->n_columns : 1));
    for (int i = 0; i < q->n_columns; i++) {
        const char *name = sqlite3_column_name(stmt, i);
        q->columns[i] = qh_strdup(name ? name : "?");
    }
}

static qh_status read_rows(qh_store *s, sqlite3_stmt *stmt, qh_store_statement *q, qh_err *err)
{
    int rc;
    keep_columns(q, stmt);
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        if (q->n_rows == QH_STORE_MAX_ROWS)
            return qh_fail(err, QH_ELIMIT,
                           "store '%s': more than %d rows; give a LIMIT, in: %.200s", s->name,
                           QH_STORE_MAX_ROWS, q->sql);
        for (int i = 0; i < q->n_columns; i++) {
            if (q->cells.len + (size_t)sqlite3_column_bytes(stmt, i) > QH_STORE_MAX_RESULT_BYTES)
                return qh_fail(err, QH_ELIMIT,
                               "store '%s': more than %d bytes of rows; give a LIMIT, in: %.200s",
                               s->name, QH_STORE_MAX_RESULT_BYTES, q->sql);
            keep_cell(&q->cells, stmt, i);
        }
        q->n_rows++;
    }
    if (rc != SQLITE_DONE) return fail_sql(s, rc, q->sql, err);
    return QH_OK;
}

static qh_status run_statement(qh_store *s, qh_store_statement *q, qh_err *err)
{
    sqlite3_stmt *stmt;
    qh_status st = prepare(s, q->sql, &stmt, err);
    if (st) return st;
    int64_t before = sqlite3_total_changes64(s->db);
    st = bind(s, stmt, q, err);
    if (!st) st = read_rows(s, stmt, q, err);
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
    q->n_changes = sqlite3_total_changes64(s->db) - before;
    q->last_id = sqlite3_last_insert_rowid(s->db);
    return st;
}

static qh_status run_batch(qh_store *s, qh_store_batch *b)
{
    bool is_transaction = b->n > 1;
    qh_status st = is_transaction ? run_ours(s, "BEGIN IMMEDIATE", &b->err) : QH_OK;
    if (st) return st;
    for (int i = 0; !st && i < b->n; i++) st = run_statement(s, &b->statements[i], &b->err);
    if (!st && is_transaction) st = run_ours(s, "COMMIT", &b->err);
    if (st && !sqlite3_get_autocommit(s->db)) {
        atomic_store(&b->is_cancelled, false); /* the way back is not interrupted */
        s->deadline_us = INT64_MAX;
        run_ours(s, "ROLLBACK", NULL);
    }
    return st;
}

void qh_store_run(qh_store *s, qh_store_batch *batch)
{
    s->batch = batch;
    s->deadline_us = qh_now_us() + batch->timeout_us;
    if (atomic_load(&batch->is_cancelled))
        qh_fail(&batch->err, QH_ECANCELED, "store '%s': cancelled", s->name);
    else if (s->db || !open_db(s, &batch->err))
        run_batch(s, batch);
    s->batch = NULL;
}

void qh_store_batch_deinit(qh_store_batch *batch)
{
    for (int i = 0; i < batch->n; i++) {
        qh_store_statement *q = &batch->statements[i];
        for (int k = 0; k < q->n_params; k++) {
            qh_free(q->params[k].name);
            qh_free(q->params[k].data);
        }
        for (int k = 0; k < q->n_columns; k++) qh_free(q->columns[k]);
        qh_free(q->params);
        qh_free(q->columns);
        qh_free(q->sql);
        qh_str_deinit(&q->cells);
    }
    qh_free(batch->statements);
}

/* ---- life ---- */

static void poll_store(void *arg)
{
    qh_workers_poll(((qh_store *)arg)->workers);
}

static void free_store(qh_store *s)
{
    qh_workers_free(s->workers);
    qh_waker_free(s->waker);
    for (int i = 0; i < MAX_PREPARED; i++) {
        sqlite3_finalize(s->prepared[i].stmt);
        qh_free(s->prepared[i].sql);
    }
    sqlite3_close(s->db);
    qh_free(s->name);
    qh_free(s->dir);
    qh_free(s);
}

static bool is_name(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return n && !name[n] && n <= MAX_NAME_BYTES;
}

static qh_status new_store(qh_stores *all, const char *name, qh_store **out, qh_err *err)
{
    qh_store *s = qh_new0(qh_store);
    s->name = qh_strdup(name);
    s->dir = qh_strdup(all->dir);
    qh_status st = qh_waker_new(&s->waker, all->loop, poll_store, s, err);
    if (!st) st = qh_workers_new(&s->workers, 1, MAX_QUEUED, qh_waker_wakeup(s->waker), err);
    if (st) {
        free_store(s);
        return st;
    }
    s->next = all->first;
    all->first = *out = s;
    all->n++;
    return QH_OK;
}

qh_status qh_stores_get(qh_stores *s, const char *name, qh_store **out, qh_err *err)
{
    if (!is_name(name))
        return qh_fail(err, QH_EINVAL,
                       "'%.60s' is no name for a store: letters, digits, '_' and '-', at most %d",
                       name, MAX_NAME_BYTES);
    if (!s->dir)
        return qh_fail(err, QH_EUNSUPPORTED, "there is no data folder here for store '%s'", name);
    for (qh_store *at = s->first; at; at = at->next)
        if (strcmp(at->name, name) == 0) {
            *out = at;
            return QH_OK;
        }
    if (s->n == MAX_STORES)
        return qh_fail(err, QH_ELIMIT, "store '%s': there are %d stores already", name, MAX_STORES);
    return new_store(s, name, out, err);
}

qh_workers *qh_store_workers(qh_store *s)
{
    return s->workers;
}
const char *qh_store_name(const qh_store *s)
{
    return s->name;
}

qh_stores *qh_stores_new(qh_loop *loop, const char *dir)
{
    qh_stores *s = qh_new0(qh_stores);
    s->loop = loop;
    s->dir = dir ? qh_strdup(dir) : NULL;
    return s;
}

void qh_stores_free(qh_stores *s)
{
    if (!s) return;
    while (s->first) {
        qh_store *at = s->first;
        s->first = at->next;
        free_store(at);
    }
    qh_free(s->dir);
    qh_free(s);
}
