/* jsonl.c - see jsonl.h */
#include "cli/jsonl.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LINE_BYTES = 256 << 20 };

static void write_line(json_t *v)
{
    char *text = json_dumps(v, JSON_COMPACT | JSON_REAL_PRECISION(9));
    puts(text ? text : "{\"error\":\"the result holds text that is not UTF-8\"}");
    fflush(stdout);
    free(text);
    json_decref(v);
}

static json_t *error_line(long line_no, const qh_err *err)
{
    char where[32];
    snprintf(where, sizeof where, "line %ld", line_no);
    return json_pack("{s:o}", "error", json_sprintf("%s: %s", where, err->msg));
}

static qh_status handle(qh_jsonl_fn fn, void *arg, const char *line, size_t len, json_t **out,
                        qh_err *err)
{
    if (len > MAX_LINE_BYTES) return qh_fail(err, QH_ELIMIT, "%zu bytes, more than a line may have", len);
    json_error_t je;
    json_t *in = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    qh_status st;
    if (!in) st = qh_fail(err, QH_EFORMAT, "not JSON: %s (column %d)", je.text, je.column);
    else if (!json_is_object(in)) st = qh_fail(err, QH_EFORMAT, "not a JSON object");
    else st = fn(arg, in, out, err);
    json_decref(in);
    return st;
}

static bool is_blank(const char *line, size_t len)
{
    return strspn(line, " \t\r\n") >= len;
}

int qh_jsonl_run(qh_jsonl_fn fn, void *arg)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    int rc = 0;
    for (long no = 1; !ferror(stdout) && (len = getline(&line, &cap, stdin)) >= 0; no++) {
        if (is_blank(line, (size_t)len)) continue;
        json_t *out = NULL;
        qh_err err = {0};
        if (handle(fn, arg, line, (size_t)len, &out, &err)) {
            rc = 1;
            json_decref(out);
            out = error_line(no, &err);
        }
        write_line(out);
    }
    free(line);
    return rc;
}

static bool is_absent(const json_t *v) { return !v || json_is_null(v); }

qh_status qh_jsonl_text(const json_t *in, const char *key, bool required, const char **out, size_t *len,
                        qh_err *err)
{
    const json_t *v = json_object_get(in, key);
    if (is_absent(v)) return required ? qh_fail(err, QH_EINVAL, "'%s' is missing", key) : QH_OK;
    if (!json_is_string(v)) return qh_fail(err, QH_EINVAL, "'%s' is not a string", key);
    *out = json_string_value(v);
    *len = json_string_length(v);
    return QH_OK;
}

qh_status qh_jsonl_flag(const json_t *in, const char *key, bool *out, qh_err *err)
{
    const json_t *v = json_object_get(in, key);
    if (is_absent(v)) return QH_OK;
    if (!json_is_boolean(v)) return qh_fail(err, QH_EINVAL, "'%s' is not true or false", key);
    *out = json_is_true(v);
    return QH_OK;
}

qh_status qh_jsonl_int(const json_t *in, const char *key, int min, int max, int *out, qh_err *err)
{
    const json_t *v = json_object_get(in, key);
    if (is_absent(v)) return QH_OK;
    json_int_t i = json_integer_value(v);
    if (!json_is_integer(v) || i < min || i > max)
        return qh_fail(err, QH_EINVAL, "'%s' is not a whole number from %d to %d", key, min, max);
    *out = (int)i;
    return QH_OK;
}

qh_status qh_jsonl_ids(const json_t *in, const char *key, int n_vocab, int32_t **ids, int *n, qh_err *err)
{
    const json_t *v = json_object_get(in, key), *e;
    if (!json_is_array(v)) return qh_fail(err, QH_EINVAL, "'%s' is not an array of token ids", key);
    size_t i;
    *ids = qh_try_alloc0(json_array_size(v), sizeof **ids);
    if (!*ids) return qh_fail(err, QH_ENOMEM, "'%s': %zu ids", key, json_array_size(v));
    *n = 0;
    json_array_foreach(v, i, e) {
        json_int_t id = json_integer_value(e);
        if (!json_is_integer(e) || id < 0 || id >= n_vocab) {
            qh_free(*ids);
            *ids = NULL;
            return qh_fail(err, QH_EINVAL, "'%s'[%zu] is not a token id from 0 to %d", key, i, n_vocab - 1);
        }
        (*ids)[(*n)++] = (int32_t)id;
    }
    return QH_OK;
}
