/* detok.c - see detok.h */
#include "text/detok.h"
#include "text/utf8.h"
#include <string.h>

static const char replacement[] = "\xef\xbf\xbd";

/* The text of id without the space that encoding puts at the start of the text and after each
 * special token. *is_first says whether such a space may come now, and is brought up to date. */
static qh_slice text_of(const qh_vocab *v, qh_token id, bool show_special, bool *is_first)
{
    if (id < 0 || id >= qh_vocab_len(v)) return (qh_slice){replacement, 3};
    qh_slice s = qh_vocab_bytes(v, id);
    if (qh_vocab_is_special(v, id)) {
        *is_first = qh_vocab_adds_space(v);
        return qh_vocab_is_shown(v, id) || show_special ? s : (qh_slice){0};
    }
    if (!qh_vocab_is_shown(v, id)) return show_special ? s : (qh_slice){0};
    if (*is_first && s.len) {
        *is_first = false;
        if (s.data[0] == ' ') return (qh_slice){s.data + 1, s.len - 1};
    }
    return s;
}

void qh_detok_init(qh_detok *d, const qh_vocab *v, bool strip_first_space)
{
    *d = (qh_detok){.vocab = v, .is_first = strip_first_space && qh_vocab_adds_space(v)};
}

/* Takes the next byte. pending always is a partial character, so one byte makes it whole, longer,
 * or shows that it will never be one: then U+FFFD stands for it and the byte starts afresh. */
static void push_byte(qh_detok *d, char byte, qh_str *out)
{
    char *pending = (char *)d->pending;
    for (;;) {
        pending[d->n_pending] = byte;
        size_t n = (size_t)d->n_pending + 1;
        if (qh_utf8_len(pending, n)) {
            qh_str_append(out, pending, n);
            d->n_pending = 0;
            return;
        }
        if (qh_utf8_partial(pending, n) == (int)n) {
            d->n_pending++;
            return;
        }
        qh_str_append(out, replacement, 3);
        if (!d->n_pending) return;
        d->n_pending = 0;
    }
}

static bool is_shown(const qh_detok *d, qh_token id)
{
    for (int i = 0; i < d->n_shown; i++)
        if (d->shown[i] == id) return true;
    return false;
}

void qh_detok_push(qh_detok *d, qh_token id, qh_str *out)
{
    qh_slice s = text_of(d->vocab, id, is_shown(d, id), &d->is_first);
    for (size_t i = 0; i < s.len;) {
        size_t n = d->n_pending ? 0 : qh_utf8_span(s.data + i, s.len - i);
        if (n) qh_str_append(out, s.data + i, n);
        i += n;
        if (i < s.len) push_byte(d, s.data[i++], out);
    }
}

void qh_detok_finish(qh_detok *d, qh_str *out)
{
    if (d->n_pending) qh_str_append(out, replacement, 3);
    d->n_pending = 0;
}

void qh_detok_all(const qh_vocab *v, const qh_token *ids, int n, bool show_special, qh_str *out)
{
    bool is_first = qh_vocab_adds_space(v);
    for (int i = 0; i < n; i++) {
        qh_slice s = text_of(v, ids[i], show_special, &is_first);
        if (s.len) qh_str_append(out, s.data, s.len);
    }
}
