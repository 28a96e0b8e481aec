/* jsonl.h - commands that read JSON Lines on stdin and write one JSON line for each on stdout. */
#pragma once
#include "base/err.h"
#include <jansson.h>

/* in: an object. Sets *out to a new object, or returns a status with its reason in err. */
typedef qh_status (*qh_jsonl_fn)(void *arg, const json_t *in, json_t **out, qh_err *err);

/* Every line gives one line: the result, or {"error": "..."} naming the input line. Blank lines are
 * skipped; a line over 256 MiB is an error. Returns 0, or 1 when any line failed. */
int qh_jsonl_run(qh_jsonl_fn fn, void *arg);

/* Fields of in; *out keeps its default when the field is absent or null. QH_EINVAL names the field. */
qh_status qh_jsonl_text(const json_t *in, const char *key, bool required, const char **out, size_t *len,
                        qh_err *err);
qh_status qh_jsonl_flag(const json_t *in, const char *key, bool *out, qh_err *err);
qh_status qh_jsonl_int(const json_t *in, const char *key, int min, int max, int *out, qh_err *err);
/* An array of token ids below n_vocab. *ids: caller frees with qh_free. */
qh_status qh_jsonl_ids(const json_t *in, const char *key, int n_vocab, int32_t **ids, int *n, qh_err *err);
