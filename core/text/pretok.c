/* pretok.c - splitters on PCRE2 with JIT; see pretok.h
 *
 * The expressions are those of the models' own tokenizer.json files. \s is spelled out as Unicode's
 * White_Space, because PCRE2's \s also takes U+180E. No expression may need to look at the same
 * byte more than a constant number of times: a space run that a "$" refuses is skipped as a whole.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pretok.h"
#include "base/mem.h"
#include "base/str.h"
#include "text/utf8.h"
#include <pcre2.h>
#include <string.h>

enum { MAX_STEPS = 6 };

#define WS                                                                                         \
    "\\x{9}-\\x{d} \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}" \
    "\\x{3000}"
#define GPT2                                                                                       \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|[" WS "]+(?![^" WS       \
    "])|[" WS "]+"
/* digits: how many stay together */
#define LLAMA3(digits)                                                                             \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" WS                \
    "\\p{L}\\p{N}]+[\\r\\n]*|[" WS "]*[\\r\\n]+|[" WS "]+(?![^" WS "])|[" WS "]+"
/* The cased letters (Lu, Ll, Lt) of Unicode 11, but for a few scripts. */
#define CASED_LETTERS                                                                              \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"                 \
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}"         \
    "\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}"                  \
    "\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"                       \
    "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"                 \
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"                 \
    "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}"                 \
    "\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}"         \
    "\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}"                           \
    "\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}"                 \
    "\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}"          \
    "\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}"                  \
    "\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}"         \
    "\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}"                  \
    "\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}"                 \
    "\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}"                 \
    "\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}"         \
    "\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"

typedef struct {
    const char *names; /* separated by one space */
    bool ignores_merges;
    const char *steps[MAX_STEPS + 1]; /* NULL-terminated */
} family;

static const family families[] = {
    {"gpt-2", false, {GPT2}},
    {"smollm starcoder refact", false, {"\\p{N}", GPT2}},
    {"llama-bpe llama3 llama-v3", true, {LLAMA3("\\p{N}{1,3}")}},
    {"qwen2 deepseek-r1-qwen", false, {LLAMA3("\\p{N}")}},
    {"falcon", false, {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {"deepseek-llm",
     false,
     {"[\\r\\n]", "[" WS "]?[" CASED_LETTERS "]+",
      "[" WS
      "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
      "[" WS "]++(*SKIP)\\z", "[\\x{800}-\\x{9fa5}\\x{ac00}-\\x{d7ff}]+", "\\p{N}+"}},
    {"default", false, {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

struct qh_pretok {
    const family *family;
    int n_steps;
    pcre2_code *steps[MAX_STEPS];
    bool has_jit; /* of all steps; without it the interpreter matches */
    pcre2_match_context *limits;
};

static bool has_name(const char *names, const char *name)
{
    size_t len = strlen(name);
    for (const char *at = names; len && (at = strstr(at, name)); at++) {
        bool begins = at == names || at[-1] == ' ', ends = !at[len] || at[len] == ' ';
        if (begins && ends) return true;
    }
    return false;
}

static const family *find_family(const char *name)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (!strchr(name, ' ') && has_name(families[i].names, name)) return &families[i];
    return NULL;
}

static qh_status unknown_name(const char *name, qh_err *err)
{
    qh_str known = {0};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        qh_str_appendf(&known, " %s", families[i].names);
    qh_status st = qh_fail(err, QH_EUNSUPPORTED, "pre-tokenizer \"%.60s\" is unknown; known are:%s",
                           name, known.data);
    qh_str_deinit(&known);
    return st;
}

static qh_status compile_step(qh_pretok *p, const char *expression, const char *name, qh_err *err)
{
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (!re) {
        char why[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return qh_fail(err, QH_EUNSUPPORTED, "pre-tokenizer %s: PCRE2 refuses \"%s\" at %zu: %s",
                       name, expression, (size_t)at, why);
    }
    p->steps[p->n_steps++] = re;
    if (pcre2_jit_compile(re, PCRE2_JIT_COMPLETE)) p->has_jit = false;
    return QH_OK;
}

qh_status qh_pretok_new(qh_pretok **out, const char *name, qh_err *err)
{
    *out = NULL;
    const family *f = find_family(name);
    if (!f) return unknown_name(name, err);
    qh_pretok *p = qh_new0(qh_pretok);
    p->family = f;
    p->has_jit = true;
    p->limits = pcre2_match_context_create(NULL);
    qh_status st = p->limits ? QH_OK : qh_fail(err, QH_ENOMEM, "pre-tokenizer %s", name);
    for (int i = 0; !st && f->steps[i]; i++) st = compile_step(p, f->steps[i], name, err);
    if (st) {
        qh_pretok_free(p);
        return st;
    }
    /* The default limit counts backtracking steps, which a long run of spaces has as many of as
     * bytes. */
    pcre2_set_match_limit(p->limits, UINT32_MAX);
    *out = p;
    return QH_OK;
}

void qh_pretok_free(qh_pretok *p)
{
    if (!p) return;
    for (int i = 0; i < p->n_steps; i++) pcre2_code_free(p->steps[i]);
    pcre2_match_context_free(p->limits);
    qh_free(p);
}

bool qh_pretok_ignores_merges(const qh_pretok *p)
{
    return p->family->ignores_merges;
}

/* ---- splitting ----------------------------------------------------------------------------- */

typedef struct {
    const qh_pretok *p;
    const char *text;  /* what words are given from */
    const char *valid; /* the same bytes, or a copy with invalid UTF-8 replaced */
    pcre2_match_data *match[MAX_STEPS];
    qh_word_fn fn;
    void *ctx;
    qh_err *err;
} job;

static int match_step(const job *j, int step, size_t from, size_t to, size_t at)
{
    const pcre2_code *re = j->p->steps[step];
    PCRE2_SPTR subject = (PCRE2_SPTR)j->valid + from;
    if (j->p->has_jit)
        return pcre2_jit_match(re, subject, to - from, at - from, 0, j->match[step], j->p->limits);
    return pcre2_match(re, subject, to - from, at - from, PCRE2_NO_UTF_CHECK, j->match[step],
                       j->p->limits);
}

/* Applies the steps from step on to text[from .. to), which is not empty. */
static qh_status split_piece(job *j, int step, size_t from, size_t to)
{
    if (step == j->p->n_steps) return j->fn(j->ctx, j->text + from, to - from);
    qh_status st = QH_OK;
    for (size_t at = from; !st && at < to;) {
        int rc = match_step(j, step, from, to, at);
        if (rc == PCRE2_ERROR_NOMATCH) return split_piece(j, step + 1, at, to);
        if (rc < 0)
            return qh_fail(
                j->err, QH_ELIMIT,
                "pre-tokenizer %s: step %d fails on a piece of %zu bytes: PCRE2 error %d",
                j->p->family->names, step + 1, to - from, rc);
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(j->match[step]);
        size_t begin = from + range[0], end = from + range[1];
        if (begin > at) st = split_piece(j, step + 1, at, begin);
        if (!st) st = split_piece(j, step + 1, begin, end);
        at = end;
    }
    return st;
}

/* The bytes that are not UTF-8 become U+0001, one for one, so that positions stay. */
static char *copy_valid(const char *text, size_t len)
{
    char *copy = qh_try_alloc0(len, 1);
    if (!copy) return NULL;
    for (size_t i = 0; i < len;) {
        size_t n = qh_utf8_span(text + i, len - i);
        memcpy(copy + i, text + i, n);
        i += n;
        if (i < len) copy[i++] = 1;
    }
    return copy;
}

qh_status qh_pretok_split(const qh_pretok *p, const char *text, size_t len, qh_word_fn fn,
                          void *ctx, qh_err *err)
{
    if (!len) return QH_OK;
    job j = {.p = p, .text = text, .valid = text, .fn = fn, .ctx = ctx, .err = err};
    char *copy = NULL;
    qh_status st = QH_OK;
    if (qh_utf8_span(text, len) < len) {
        j.valid = copy = copy_valid(text, len);
        if (!copy) st = qh_fail(err, QH_ENOMEM, "pre-tokenizer: a copy of %zu bytes", len);
    }
    for (int i = 0; !st && i < p->n_steps; i++) {
        j.match[i] = pcre2_match_data_create(1, NULL);
        if (!j.match[i]) st = qh_fail(err, QH_ENOMEM, "pre-tokenizer: match data");
    }
    if (!st) st = split_piece(&j, 0, 0, len);
    for (int i = 0; i < p->n_steps; i++) pcre2_match_data_free(j.match[i]);
    qh_free(copy);
    return st;
}
