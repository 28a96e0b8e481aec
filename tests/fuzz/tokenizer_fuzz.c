/* tokenizer_fuzz.c - text and vocabularies that nobody would write.
 *
 * Byte 0 chooses a tokenizer, or a vocabulary made of the input itself; bytes 1 and 2 cut the text
 * into segments and say which are trusted; the rest is text. Properties, each of them for every
 * text: encoding succeeds, decoding gives the text back, a stream of tokens equals the whole, and
 * untrusted text holds no control token. */
#include "base/mem.h"
#include "base/str.h"
#include "text/detok.h"
#include "text/tokenizer.h"
#include "text/utf8.h"
#include "toy_vocab.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SEGMENTS = 64 };

#define REQUIRE(cond)                                                                              \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "violated at line %d: %s\n", __LINE__, #cond);                         \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- fixed tokenizers ----------------------------------------------------------------------- */

static const char *const merges[] = {"a b",
                                     "ab ab",
                                     "abab abab",
                                     "\xc4\xa0 \xc4\xa0",
                                     "\xc4\xa0\xc4\xa0 \xc4\xa0\xc4\xa0",
                                     "\xc4\xa0 a",
                                     "\xc3\xa3 \xc4\xa2",
                                     "1 1",
                                     "b <",
                                     "e n",
                                     "b< a"};
static const toy_token specials[] = {
    {"<|end|>", QH_TOKEN_CONTROL, 0}, {"<|", QH_TOKEN_USER_DEFINED, 0}, {"|>", QH_TOKEN_UNKNOWN, 0},
    {"a<|end", QH_TOKEN_CONTROL, 0},  {"  ", QH_TOKEN_USER_DEFINED, 0}, {NULL, 0, 0}};
static const toy_token pieces[] = {{"\xe2\x96\x81", QH_TOKEN_NORMAL, -3},
                                   {"a", QH_TOKEN_NORMAL, -4},
                                   {"b", QH_TOKEN_NORMAL, -4},
                                   {"\xe2\x96\x81"
                                    "a",
                                    QH_TOKEN_NORMAL, -1},
                                   {"ab", QH_TOKEN_NORMAL, -1},
                                   {"aba", QH_TOKEN_NORMAL, -2},
                                   {"\xe2\x96\x81\xe2\x96\x81", QH_TOKEN_NORMAL, -2},
                                   {"a\xe2\x96\x81", QH_TOKEN_NORMAL, -2}, /* words cannot be cut */
                                   {"<s>", QH_TOKEN_CONTROL, 0},
                                   {"<", QH_TOKEN_NORMAL, -5},
                                   {"s>", QH_TOKEN_NORMAL, -5},
                                   {"<s", QH_TOKEN_NORMAL, -5},
                                   {"b<", QH_TOKEN_USER_DEFINED, 0},
                                   {NULL, 0, 0}};
static const char *const splitters[] = {"gpt-2",  "smollm",       "llama-bpe", "qwen2",
                                        "falcon", "deepseek-llm", "default"};
enum { N_BPE = sizeof splitters / sizeof *splitters, N_FIXED = N_BPE + 2 };

static const qh_tokenizer *fixed_tokenizer(int k)
{
    static qh_tokenizer *made[N_FIXED];
    if (!made[k]) {
        const int n_merges = (int)(sizeof merges / sizeof *merges);
        qh_vocab *v = k < N_BPE ? toy_bpe(splitters[k], merges, n_merges, specials)
                                : toy_spm(pieces, true, k == N_BPE);
        REQUIRE(qh_tokenizer_new(&made[k], v, NULL) == QH_OK);
    }
    return made[k];
}

/* ---- properties ----------------------------------------------------------------------------- */

static void check_stream(const qh_vocab *v, const qh_tokens *ids)
{
    qh_str whole = {0}, stream = {0}, want = {0};
    qh_detok d;
    qh_detok_init(&d, v, true);
    for (int i = 0; i < ids->len; i++) {
        qh_detok_push(&d, ids->ids[i], &stream);
        REQUIRE(qh_utf8_span(qh_str_z(&stream), stream.len) == stream.len || ids->len > 1000);
    }
    qh_detok_finish(&d, &stream);
    qh_detok_all(v, ids->ids, ids->len, false, &whole);
    for (size_t i = 0; i < whole.len;) {
        int len = qh_utf8_len(whole.data + i, whole.len - i);
        int partial = qh_utf8_partial(whole.data + i, whole.len - i);
        qh_str_append(&want, len ? whole.data + i : "\xef\xbf\xbd", len ? (size_t)len : 3);
        i += (size_t)(len ? len : partial ? partial : 1);
    }
    REQUIRE(stream.len == want.len && (!want.len || !memcmp(stream.data, want.data, want.len)));
    qh_str_deinit(&whole);
    qh_str_deinit(&stream);
    qh_str_deinit(&want);
}

static void check_text(const qh_tokenizer *t, const char *text, size_t len, unsigned cut,
                       unsigned trust, bool is_lossless)
{
    const qh_vocab *v = qh_tokenizer_vocab(t);
    qh_segment segs[MAX_SEGMENTS];
    int n_segs = 0;
    bool is_any_trusted = false;
    for (size_t at = 0; at < len;) {
        size_t n = n_segs == MAX_SEGMENTS - 1 || cut == 0 ? len - at
                   : cut < len - at                       ? cut
                                                          : len - at;
        bool is_trusted = trust >> (n_segs % 8) & 1;
        segs[n_segs++] = (qh_segment){text + at, n, is_trusted};
        is_any_trusted |= is_trusted;
        at += n;
    }
    qh_tokens ids = {0};
    qh_str back = {0};
    REQUIRE(qh_tokenizer_encode_segments(t, segs, n_segs, false, &ids, NULL) == QH_OK);
    for (int i = 0; i < ids.len; i++) {
        REQUIRE(ids.ids[i] >= 0 && ids.ids[i] < qh_vocab_len(v));
        if (is_lossless && !is_any_trusted) REQUIRE(qh_vocab_is_shown(v, ids.ids[i]));
    }
    qh_detok_all(v, ids.ids, ids.len, true, &back);
    if (is_lossless) REQUIRE(back.len == len && (!len || !memcmp(back.data, text, len)));
    check_stream(v, &ids);
    qh_str_deinit(&back);
    qh_tokens_deinit(&ids);
}

/* ---- a vocabulary from the input ------------------------------------------------------------ */

/* Lines: a byte of type and flags, then the piece; lines that begin with 'm' are merges. */
static void check_vocab(const char *data, size_t len)
{
    enum { MAX_LINES = 512 };
    static qh_slice tokens[MAX_LINES], lines[MAX_LINES];
    static int32_t types[MAX_LINES];
    static float scores[MAX_LINES];
    qh_vocab_spec spec = {.pieces = tokens,
                          .types = types,
                          .scores = scores,
                          .merges = lines,
                          .bos = -1,
                          .eos = -1,
                          .eot = -1,
                          .unk = 0,
                          .pad = -1};
    if (!len) return;
    spec.kind = data[0] & 1 ? QH_TOKENIZER_SPM : QH_TOKENIZER_BPE;
    spec.add_space_prefix = data[0] & 2;
    spec.pretokenizer = splitters[((unsigned char)data[0] >> 2) % N_BPE];
    for (const char *at = data + 1, *end = data + len;
         at < end && spec.n_tokens < MAX_LINES && spec.n_merges < MAX_LINES;) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        if (!line_end) line_end = end;
        size_t n = (size_t)(line_end - at);
        if (n && *at == 'm') {
            lines[spec.n_merges++] = (qh_slice){at + 1, n - 1};
        } else if (n) {
            types[spec.n_tokens] = *at % 8;
            scores[spec.n_tokens] = (float)*at;
            tokens[spec.n_tokens++] = (qh_slice){at + 1, n - 1};
        }
        at = line_end + 1;
    }
    qh_vocab *v;
    qh_tokenizer *t;
    if (qh_vocab_new(&v, &spec, NULL)) return;
    if (!qh_tokenizer_new(&t, v, NULL)) {
        check_text(t, data, len, 5, 0x35, false);
        qh_tokenizer_free(t);
    }
    qh_vocab_free(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) return 0;
    const char *text = (const char *)data + 3;
    unsigned k = data[0] % (N_FIXED + 2);
    if (k < N_FIXED)
        check_text(fixed_tokenizer((int)k), text, size - 3, data[1], data[2], true);
    else
        check_vocab(text, size - 3);
    return 0;
}
