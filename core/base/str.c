/* str.c - see str.h */
#include "base/str.h"
#include "base/err.h"
#include "base/mem.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void qh_str_deinit(qh_str *s)
{
    qh_free(s->data);
    *s = (qh_str){0};
}

void qh_str_clear(qh_str *s)
{
    s->len = 0;
    if (s->data) s->data[0] = 0;
}

static void reserve(qh_str *s, size_t extra)
{
    size_t need = s->len + extra + 1;
    qh_assert(need > s->len);
    if (need <= s->cap) return;
    size_t cap = s->cap ? s->cap * 2 : 64;
    if (cap < need) cap = need;
    s->data = qh_realloc(s->data, cap);
    s->cap = cap;
}

void qh_str_append(qh_str *s, const void *data, size_t len_bytes)
{
    reserve(s, len_bytes);
    if (len_bytes) memcpy(s->data + s->len, data, len_bytes);
    s->len += len_bytes;
    s->data[s->len] = 0;
}

void qh_str_append_z(qh_str *s, const char *z) { qh_str_append(s, z, strlen(z)); }
void qh_str_append_c(qh_str *s, char c) { qh_str_append(s, &c, 1); }

void qh_str_appendf(qh_str *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    qh_assert(n >= 0);
    reserve(s, (size_t)n);
    va_start(ap, fmt);
    vsnprintf(s->data + s->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    s->len += (size_t)n;
}

/* Bytes of the UTF-8 sequence at p, or 0 (RFC 3629: no overlong forms, no surrogates). */
static size_t utf8_len(const unsigned char *p, size_t left)
{
    size_t n = *p < 0x80 ? 1 : *p < 0xc2 ? 0 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : *p < 0xf5 ? 4 : 0;
    if (n > left) return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    bool is_bad = n > 2 && ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] >= 0xa0) ||
                            (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] >= 0x90));
    return is_bad ? 0 : n;
}

void qh_str_append_json(qh_str *s, const char *text, size_t len_bytes)
{
    qh_str_append_c(s, '"');
    for (size_t i = 0; i < len_bytes;) {
        unsigned char c = (unsigned char)text[i];
        size_t n = utf8_len((const unsigned char *)text + i, len_bytes - i);
        if (c == '"' || c == '\\') qh_str_appendf(s, "\\%c", c);
        else if (c == '\n') qh_str_append_z(s, "\\n");
        else if (c < 0x20) qh_str_appendf(s, "\\u%04x", c);
        else if (n) qh_str_append(s, text + i, n);
        else qh_str_append_z(s, "\\ufffd");
        i += n ? n : 1;
    }
    qh_str_append_c(s, '"');
}

void qh_str_cut_front(qh_str *s, size_t len_bytes)
{
    qh_assert(len_bytes <= s->len);
    if (!len_bytes) return;
    s->len -= len_bytes;
    memmove(s->data, s->data + len_bytes, s->len);
    s->data[s->len] = 0;
}

char *qh_str_steal(qh_str *s)
{
    reserve(s, 0);
    char *p = s->data;
    p[s->len] = 0;
    *s = (qh_str){0};
    return p;
}

const char *qh_str_z(const qh_str *s) { return s->data ? s->data : ""; }
