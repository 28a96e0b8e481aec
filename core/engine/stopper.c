/* stopper.c - see stopper.h */
#include "engine/stopper.h"
#include "base/mem.h"
#include <string.h>

static int *borders_of(const char *s, size_t len)
{
    int *b = qh_try_alloc0(len, sizeof *b);
    if (!b) return NULL;
    for (size_t i = 1; i < len; i++) {
        int k = b[i - 1];
        while (k > 0 && s[i] != s[k]) k = b[k - 1];
        b[i] = k + (s[i] == s[k]);
    }
    return b;
}

qh_status qh_stop_set_init(qh_stop_set *s, const char *const *strings, int n, bool keep)
{
    *s = (qh_stop_set){.strings = strings, .n = n, .keep = keep};
    s->lens = qh_try_alloc0((size_t)n, sizeof *s->lens);
    s->borders = qh_try_alloc0((size_t)n, sizeof *s->borders);
    bool is_whole = s->lens && s->borders;
    for (int i = 0; is_whole && i < n; i++) {
        s->lens[i] = strlen(strings[i]);
        s->borders[i] = borders_of(strings[i], s->lens[i]);
        is_whole = s->borders[i];
    }
    if (is_whole) return QH_OK;
    qh_stop_set_deinit(s);
    return QH_ENOMEM;
}

void qh_stop_set_deinit(qh_stop_set *s)
{
    for (int i = 0; s->borders && i < s->n; i++) qh_free(s->borders[i]);
    qh_free(s->borders);
    qh_free(s->lens);
    *s = (qh_stop_set){0};
}

qh_status qh_stopper_init(qh_stopper *s, const qh_stop_set *set)
{
    *s = (qh_stopper){.set = set};
    s->states = qh_try_alloc0((size_t)set->n, sizeof *s->states);
    return s->states ? QH_OK : QH_ENOMEM;
}

void qh_stopper_deinit(qh_stopper *s)
{
    qh_free(s->states);
    qh_str_deinit(&s->held);
    *s = (qh_stopper){0};
}

/* Advance every automaton by one byte; the index of the longest string that is complete, or -1. */
static int feed(qh_stopper *s, char c)
{
    int match = -1;
    for (int i = 0; i < s->set->n; i++) {
        const char *z = s->set->strings[i];
        int k = s->states[i];
        while (k > 0 && z[k] != c) k = s->set->borders[i][k - 1];
        s->states[i] = k += z[k] == c;
        if ((size_t)k == s->set->lens[i] && (match < 0 || s->set->lens[i] > s->set->lens[match]))
            match = i;
    }
    return match;
}

int qh_stopper_push(qh_stopper *s, const char *text, size_t len, qh_str *out)
{
    if (s->set->n == 0) {
        qh_str_append(out, text, len);
        return -1;
    }
    for (size_t i = 0; i < len; i++) {
        qh_str_append_c(&s->held, text[i]);
        int match = feed(s, text[i]);
        if (match < 0) continue;
        qh_str_append(out, s->held.data, s->held.len - (s->set->keep ? 0 : s->set->lens[match]));
        qh_str_clear(&s->held);
        return match;
    }
    size_t n_held = 0;
    for (int i = 0; i < s->set->n; i++)
        if ((size_t)s->states[i] > n_held) n_held = (size_t)s->states[i];
    size_t n_sure = s->held.len - n_held;
    qh_str_append(out, s->held.data, n_sure);
    qh_str_cut_front(&s->held, n_sure);
    return -1;
}

void qh_stopper_finish(qh_stopper *s, qh_str *out)
{
    qh_str_append(out, s->held.data, s->held.len);
    qh_str_clear(&s->held);
}
