/* str.h - a growing byte string. Always NUL-terminated; may hold NUL bytes.
 *
 * A zeroed qh_str is a valid empty one. Thread: one owner. */
#pragma once
#include <stddef.h>

typedef struct {                /* borrowed bytes, not NUL-terminated; may hold NUL bytes */
    const char *data;
    size_t len;
} qh_slice;

typedef struct {
    char *data;                 /* owned; NULL while empty and never written */
    size_t len, cap;            /* bytes, without the NUL */
} qh_str;

void  qh_str_deinit(qh_str *s);
void  qh_str_clear(qh_str *s);                                /* keeps the buffer */
void  qh_str_append(qh_str *s, const void *data, size_t len_bytes);
void  qh_str_append_z(qh_str *s, const char *z);
void  qh_str_append_c(qh_str *s, char c);
void  qh_str_appendf(qh_str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3), nonnull(2)));
/* A JSON string with its quotes; bytes that are no UTF-8 become U+FFFD. */
void  qh_str_append_json(qh_str *s, const char *text, size_t len_bytes);
void  qh_str_cut_front(qh_str *s, size_t len_bytes);          /* drop the first bytes */
char *qh_str_steal(qh_str *s);                                /* caller frees with qh_free; never NULL */
const char *qh_str_z(const qh_str *s);                        /* "" while empty */
