/* re.c - see re.h
 *
 * PCRE2's own match limit counts anew at each starting place, and does not count what needs no
 * backtracking, so it bounds neither. Here a piece may start in `window` places only (an offset
 * limit) and spend STEPS_A_PIECE / window at each. Where that is not enough the window is made
 * smaller, down to one place that may spend all. As PCRE2 looks for the next place where a match
 * can begin at all, and would look again in each window, we do so first, once. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/re.h"
#include "base/clock.h"
#include "base/mem.h"
#include <ctype.h>
#include <pcre2.h>
#include <string.h>

enum {
    STEPS_A_PIECE = 1 << 20, /* of backtracking: some milliseconds */
    FIRST_BYTES = 4 << 20,   /* starting places x text of a piece: what may be scanned */
    MAX_BYTES = 64 << 20,    /* ... while pieces are quick */
    QUICK_US = 300,          /* scanned: starting places x text */
    MAX_WINDOW = 4096,
    MAX_HEAP_KB = 4096, /* of the interpreter, where there is no JIT */
    JIT_STACK_BYTES = 256 << 10
};

struct qh_re {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    pcre2_jit_stack *stack;
    qh_re_span *spans;
    const char **names; /* into code; by group, NULL: none */
    int n_groups;
    bool is_anchored;
    int first; /* the byte that every match begins with; -1: not one */
    bool has_first_set;
    uint8_t first_set[32]; /* else the bytes that a match can begin with, a bit each */
};

void qh_re_free(qh_re *re)
{
    if (!re) return;
    pcre2_match_data_free(re->match);
    pcre2_match_context_free(re->limits);
    pcre2_jit_stack_free(re->stack);
    pcre2_code_free(re->code);
    qh_free(re->spans);
    qh_free(re->names);
    qh_free(re);
}

static qh_status options_of(const char *flags, uint32_t *options, uint32_t *extra, qh_err *err)
{
    *options =
        PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_USE_OFFSET_LIMIT | PCRE2_NEVER_BACKSLASH_C;
    for (*extra = 0; *flags; flags++) {
        switch (*flags) {
        case 'i': *options |= PCRE2_CASELESS; break;
        case 'm': *options |= PCRE2_MULTILINE; break;
        case 's': *options |= PCRE2_DOTALL; break;
        case 'x': *options |= PCRE2_EXTENDED; break;
        case 'a': *options |= PCRE2_ANCHORED; break;
        case 'u': *options |= PCRE2_UCP; break;
        case 'e':
            *options |= PCRE2_ALT_BSUX | PCRE2_DOLLAR_ENDONLY | PCRE2_ALLOW_EMPTY_CLASS |
                        PCRE2_MATCH_UNSET_BACKREF;
            *extra |= PCRE2_EXTRA_ALT_BSUX;
            break;
        default:
            return qh_fail(err, QH_EINVAL,
                           "'%c' is no flag of a regular expression; i, m, s, x, a, u and e are",
                           *flags);
        }
    }
    return QH_OK;
}

static qh_status compile(qh_re *re, const char *pattern, size_t len, uint32_t options,
                         uint32_t extra, qh_err *err)
{
    pcre2_compile_context *ctx = pcre2_compile_context_create(NULL);
    if (!ctx) return qh_fail(err, QH_ENOMEM, "a regular expression");
    pcre2_set_compile_extra_options(ctx, extra);
    int code;
    PCRE2_SIZE at;
    re->code = pcre2_compile((PCRE2_SPTR)pattern, len, options, &code, &at, ctx);
    pcre2_compile_context_free(ctx);
    if (re->code) return QH_OK;
    char why[160];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
    return qh_fail(err, QH_EFORMAT, "the regular expression \"%.*s\", at byte %zu: %s",
                   len < 200 ? (int)len : 200, pattern, (size_t)at + 1, why);
}

static void read_names(qh_re *re)
{
    uint32_t n = 0, entry_bytes = 0;
    PCRE2_SPTR table = NULL;
    pcre2_pattern_info(re->code, PCRE2_INFO_NAMECOUNT, &n);
    pcre2_pattern_info(re->code, PCRE2_INFO_NAMEENTRYSIZE, &entry_bytes);
    pcre2_pattern_info(re->code, PCRE2_INFO_NAMETABLE, &table);
    for (uint32_t i = 0; i < n; i++, table += entry_bytes)
        re->names[(table[0] << 8 | table[1]) - 1] = (const char *)table + 2;
}

static void add_start(qh_re *re, int c)
{
    unsigned char byte = (unsigned char)c;
    re->first_set[byte / 8] |= (uint8_t)(1 << byte % 8);
    re->has_first_set = true;
}

/* Caseless a first unit is given for ASCII letters without a third case only, in either case. */
static void read_start(qh_re *re, bool is_caseless)
{
    uint32_t type, unit;
    const uint8_t *set = NULL;
    pcre2_pattern_info(re->code, PCRE2_INFO_FIRSTCODETYPE, &type);
    pcre2_pattern_info(re->code, PCRE2_INFO_FIRSTCODEUNIT, &unit);
    pcre2_pattern_info(re->code, PCRE2_INFO_FIRSTBITMAP, &set);
    re->first = -1;
    if (type == 1 && !is_caseless) re->first = (int)unit;
    if (type == 1 && is_caseless) {
        add_start(re, tolower((int)unit));
        add_start(re, toupper((int)unit));
    }
    if (type != 1 && set) {
        memcpy(re->first_set, set, sizeof re->first_set);
        re->has_first_set = true;
    }
}

/* "(?i)" and the like anywhere. */
static bool has_inline_case(const char *p, size_t len)
{
    for (size_t i = 0; i + 2 < len; i++) {
        if (p[i] != '(' || p[i + 1] != '?') continue;
        for (i += 2; i < len && strchr("imsxnJUa^-", p[i]); i++)
            if (p[i] == 'i') return true;
    }
    return false;
}

static qh_status read_facts(qh_re *re, bool is_caseless, qh_err *err)
{
    uint32_t n, options;
    pcre2_pattern_info(re->code, PCRE2_INFO_CAPTURECOUNT, &n);
    if (n > QH_RE_MAX_GROUPS)
        return qh_fail(err, QH_ELIMIT, "a regular expression may have %d groups, this one has %u",
                       QH_RE_MAX_GROUPS, n);
    re->n_groups = (int)n;
    pcre2_pattern_info(re->code, PCRE2_INFO_ALLOPTIONS, &options);
    re->is_anchored = options & PCRE2_ANCHORED;
    read_start(re, is_caseless || options & PCRE2_CASELESS);
    re->spans = qh_alloc0(sizeof *re->spans * (n + 1));
    re->names = qh_alloc0(sizeof *re->names * (n + 1));
    read_names(re);
    return QH_OK;
}

static qh_status prepare(qh_re *re, qh_err *err)
{
    re->match = pcre2_match_data_create_from_pattern(re->code, NULL);
    re->limits = pcre2_match_context_create(NULL);
    if (!re->match || !re->limits) return qh_fail(err, QH_ENOMEM, "a regular expression");
    pcre2_set_heap_limit(re->limits, MAX_HEAP_KB);
    if (pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE)) return QH_OK; /* the interpreter matches */
    re->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK_BYTES, NULL);
    if (!re->stack) return qh_fail(err, QH_ENOMEM, "a regular expression");
    pcre2_jit_stack_assign(re->limits, NULL, re->stack);
    return QH_OK;
}

qh_status qh_re_new(qh_re **out, const char *pattern, size_t len_bytes, const char *flags,
                    qh_err *err)
{
    *out = NULL;
    uint32_t options, extra;
    qh_status st = options_of(flags, &options, &extra, err);
    if (st) return st;
    if (len_bytes > QH_RE_MAX_PATTERN_BYTES)
        return qh_fail(err, QH_ELIMIT, "a regular expression may have %d bytes, this one has %zu",
                       QH_RE_MAX_PATTERN_BYTES, len_bytes);
    qh_re *re = qh_new0(qh_re);
    st = compile(re, pattern, len_bytes, options, extra, err);
    if (!st) st = read_facts(re, has_inline_case(pattern, len_bytes), err);
    if (!st) st = prepare(re, err);
    if (st) {
        qh_re_free(re);
        return st;
    }
    *out = re;
    return QH_OK;
}

int qh_re_n_groups(const qh_re *re)
{
    return re->n_groups;
}
const char *qh_re_group_name(const qh_re *re, int group)
{
    return re->names[group - 1];
}
const qh_re_span *qh_re_spans(const qh_re *re)
{
    return re->spans;
}

/* ---- searching ---- */

void qh_re_begin(qh_re_search *s, qh_re *re, const char *text, size_t len_bytes, size_t from,
                 bool is_not_empty)
{
    *s = (qh_re_search){.re = re,
                        .text = text ? text : "",
                        .len = len_bytes,
                        .at = from,
                        .bytes = FIRST_BYTES,
                        .window = MAX_WINDOW,
                        .is_not_empty = is_not_empty};
}

/* Move on to where a match can begin. */
static bool skip_to_start(qh_re_search *s)
{
    const qh_re *re = s->re;
    if (re->is_anchored) return true;
    if (re->first >= 0) {
        const char *p = memchr(s->text + s->at, re->first, s->len - s->at);
        if (p) s->at = (size_t)(p - s->text);
        return p != NULL;
    }
    if (!re->has_first_set) return true;
    for (; s->at < s->len; s->at++) {
        unsigned char c = (unsigned char)s->text[s->at];
        if (re->first_set[c / 8] & 1 << c % 8) return true;
    }
    return false;
}

static void keep_spans(qh_re *re)
{
    const PCRE2_SIZE *v = pcre2_get_ovector_pointer(re->match);
    for (int i = 0; i <= re->n_groups; i++) {
        size_t from = v[2 * i], to = v[2 * i + 1];
        if (from == PCRE2_UNSET)
            from = to = QH_RE_UNSET;
        else if (from > to)
            from = to; /* \K in a lookahead */
        re->spans[i] = (qh_re_span){from, to};
    }
}

static size_t window_of(const qh_re_search *s)
{
    size_t rest = s->len - s->at + 1, most = s->bytes / rest + 1;
    return s->window < most ? s->window : most;
}

static bool is_limit(int rc)
{
    return rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT ||
           rc == PCRE2_ERROR_DEPTHLIMIT || rc == PCRE2_ERROR_JIT_STACKLIMIT;
}

static qh_status next_window(qh_re_search *s, size_t window, int64_t took_us)
{
    if (took_us < QUICK_US && s->bytes < MAX_BYTES)
        s->bytes *= 2;
    else if (took_us > 10 * QUICK_US && s->bytes > FIRST_BYTES)
        s->bytes = FIRST_BYTES;
    s->at += window;
    while (s->at < s->len && ((unsigned char)s->text[s->at] & 0xc0) == 0x80) s->at++;
    s->window = s->window * 2 < MAX_WINDOW ? s->window * 2 : MAX_WINDOW;
    s->is_not_empty = false;
    return s->re->is_anchored || s->at > s->len ? QH_ENOTFOUND : QH_AGAIN;
}

qh_status qh_re_go_on(qh_re_search *s, qh_err *err)
{
    qh_re *re = s->re;
    if (s->at > s->len) return QH_ENOTFOUND;
    size_t was_at = s->at;
    if (!skip_to_start(s)) return QH_ENOTFOUND;
    if (s->at != was_at) s->is_not_empty = false;
    size_t window = window_of(s);
    pcre2_set_match_limit(re->limits, (uint32_t)(STEPS_A_PIECE / window));
    pcre2_set_offset_limit(re->limits, s->at + window - 1);
    int64_t start_us = qh_now_us();
    int rc = pcre2_match(re->code, (PCRE2_SPTR)s->text, s->len, s->at,
                         s->is_not_empty ? PCRE2_NOTEMPTY_ATSTART : 0, re->match, re->limits);
    if (rc > 0) {
        keep_spans(re);
        return QH_OK;
    }
    if (rc == PCRE2_ERROR_NOMATCH) return next_window(s, window, qh_now_us() - start_us);
    if (is_limit(rc) && window > 1) {
        s->window = window / 16 + 1 < window ? window / 16 + 1 : 1;
        return QH_AGAIN;
    }
    if (is_limit(rc))
        return qh_fail(err, QH_ELIMIT, "the regular expression backtracks too much at byte %zu",
                       s->at + 1);
    char why[160];
    pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
    return qh_fail(err, rc == PCRE2_ERROR_NOMEMORY ? QH_ENOMEM : QH_EUNSUPPORTED,
                   "a regular expression: %s", why);
}
