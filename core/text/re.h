/* re.h - regular expressions of Perl's kind (PCRE2 with JIT) that cannot run away.
 *
 * A search is done in pieces: each looks at a window of starting places, so small that neither the
 * steps that PCRE2 counts (backtracking) nor those that it does not (plain scanning) can hold the
 * caller for more than some milliseconds. Between two pieces the caller looks at its clock:
 *
 *     qh_re_search s;
 *     qh_re_begin(&s, re, text, len, 0, 0);
 *     while ((st = qh_re_go_on(&s, &err)) == QH_AGAIN) ...;      QH_OK: spans; QH_ENOTFOUND: none
 *
 * Text need not be UTF-8: what is not matches nothing. Offsets are bytes.
 * Thread: a qh_re belongs to one thread at a time. */
#pragma once
#include "base/err.h"

typedef struct qh_re qh_re;

enum { QH_RE_MAX_PATTERN_BYTES = 8192, QH_RE_MAX_GROUPS = 99 };

/* flags, any of: i ignore case, m ^ and $ at lines, s . is a newline too, x free spacing, a
 * anchored at the start, u \w \d \s \b by Unicode, e the ECMAScript reading (\u1234, $ only at the
 * very end). QH_EINVAL: an unknown flag; QH_EFORMAT: no expression, err names the place; QH_ELIMIT:
 * too large. */
qh_status qh_re_new(qh_re **out, const char *pattern, size_t len_bytes, const char *flags,
                    qh_err *err);
void qh_re_free(qh_re *re);                               /* NULL is fine */
int qh_re_n_groups(const qh_re *re);                      /* without the whole match */
const char *qh_re_group_name(const qh_re *re, int group); /* NULL: it has none */

typedef struct {
    size_t from, to; /* QH_RE_UNSET both: the group took no part */
} qh_re_span;
#define QH_RE_UNSET ((size_t)-1)

typedef struct {
    qh_re *re;
    const char *text;  /* borrowed */
    size_t len, at;    /* the next starting place */
    size_t bytes;      /* starting places x text of the next piece */
    size_t window;     /* starting places of the next piece */
    bool is_not_empty; /* at the first place no empty match */
} qh_re_search;

/* Search from a byte offset on. is_not_empty: not the empty match there, which was found before. */
void qh_re_begin(qh_re_search *s, qh_re *re, const char *text, size_t len_bytes, size_t from,
                 bool is_not_empty);
/* One piece. QH_OK: found, see qh_re_spans; QH_ENOTFOUND; QH_AGAIN: not done; QH_ELIMIT: it
 * backtracks too much at one place. */
qh_status qh_re_go_on(qh_re_search *s, qh_err *err);
/* Of the last match: 1 + n_groups; until the next search of this expression. */
const qh_re_span *qh_re_spans(const qh_re *re);
