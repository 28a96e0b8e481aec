/* vocab_file.c - see vocab_file.h. GGUF v2 and v3 (ggml's docs/gguf.md): magic, version, tensor
 * count, key count, then keys of a name, a type and a value. */
#include "vocab_file.h"
#include "base/mapfile.h"
#include "base/mem.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    T_U8,
    T_I8,
    T_U16,
    T_I16,
    T_U32,
    T_I32,
    T_F32,
    T_BOOL,
    T_STRING,
    T_ARRAY,
    T_U64,
    T_I64,
    T_F64,
    N_TYPES
};
static const int type_bytes[N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

typedef struct {
    const unsigned char *at, *end;
} reader;

static const void *take(reader *r, uint64_t n)
{
    if (n > (uint64_t)(r->end - r->at)) {
        fprintf(stderr, "vocab file: ends early\n");
        exit(1);
    }
    const void *p = r->at;
    r->at += n;
    return p;
}

static uint64_t take_int(reader *r, int bytes)
{
    uint64_t v = 0;
    memcpy(&v, take(r, (uint64_t)bytes), (size_t)bytes);
    return v;
}

static qh_slice take_string(reader *r)
{
    uint64_t len = take_int(r, 8);
    return (qh_slice){take(r, len), len};
}

static void skip_value(reader *r, uint64_t type)
{
    if (type == T_STRING) {
        take_string(r);
    } else if (type == T_ARRAY) {
        uint64_t of = take_int(r, 4), n = take_int(r, 8);
        for (uint64_t i = 0; i < n; i++) skip_value(r, of);
    } else {
        take(r, type < N_TYPES ? (uint64_t)type_bytes[type] : UINT64_MAX);
    }
}

typedef struct {
    char model[32], pretokenizer[64];
    qh_slice *pieces, *merges;
    float *scores;
    int32_t *types;
    qh_vocab_spec spec;
} draft;

static qh_slice *take_strings(reader *r, int *n)
{
    take_int(r, 4);
    uint64_t count = take_int(r, 8);
    if (count > 1u << 22) exit(1);
    qh_slice *s = qh_alloc0(count * sizeof *s);
    for (uint64_t i = 0; i < count; i++) s[i] = take_string(r);
    *n = (int)count;
    return s;
}

static void *take_numbers(reader *r)
{
    take_int(r, 4);
    uint64_t count = take_int(r, 8);
    const void *from = take(r, count * 4);
    void *copy = qh_alloc0(count * 4);
    memcpy(copy, from, count * 4);
    return copy;
}

static void take_name(reader *r, char *out, size_t cap)
{
    qh_slice s = take_string(r);
    snprintf(out, cap, "%.*s", (int)s.len, s.data);
}

static void read_key(reader *r, draft *d)
{
    static const struct {
        const char *key;
        size_t at;
    } ids[] = {{"tokenizer.ggml.bos_token_id", offsetof(qh_vocab_spec, bos)},
               {"tokenizer.ggml.eos_token_id", offsetof(qh_vocab_spec, eos)},
               {"tokenizer.ggml.eot_token_id", offsetof(qh_vocab_spec, eot)},
               {"tokenizer.ggml.unknown_token_id", offsetof(qh_vocab_spec, unk)},
               {"tokenizer.ggml.padding_token_id", offsetof(qh_vocab_spec, pad)},
               {"tokenizer.ggml.add_bos_token", offsetof(qh_vocab_spec, add_bos)},
               {"tokenizer.ggml.add_eos_token", offsetof(qh_vocab_spec, add_eos)},
               {"tokenizer.ggml.add_space_prefix", offsetof(qh_vocab_spec, add_space_prefix)}};
    char key[128];
    take_name(r, key, sizeof key);
    uint64_t type = take_int(r, 4);
    int n;
    if (!strcmp(key, "tokenizer.ggml.model")) return take_name(r, d->model, sizeof d->model);
    if (!strcmp(key, "tokenizer.ggml.pre"))
        return take_name(r, d->pretokenizer, sizeof d->pretokenizer);
    if (!strcmp(key, "tokenizer.ggml.tokens"))
        d->pieces = take_strings(r, &d->spec.n_tokens);
    else if (!strcmp(key, "tokenizer.ggml.merges"))
        d->merges = take_strings(r, &d->spec.n_merges);
    else if (!strcmp(key, "tokenizer.ggml.scores"))
        d->scores = take_numbers(r);
    else if (!strcmp(key, "tokenizer.ggml.token_type"))
        d->types = take_numbers(r);
    else {
        for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
            if (strcmp(key, ids[i].key)) continue;
            n = type_bytes[type < N_TYPES ? type : 0];
            uint64_t v = take_int(r, n);
            memcpy((char *)&d->spec + ids[i].at, &v, (size_t)n);
            return;
        }
        skip_value(r, type);
    }
}

qh_vocab *test_vocab_open(const char *path, const char *pretokenizer)
{
    if (access(path, R_OK)) return NULL;
    qh_err err = {0};
    qh_mapfile file;
    qh_vocab *v = NULL;
    draft d = {.spec = {.bos = QH_NO_TOKEN,
                        .eos = QH_NO_TOKEN,
                        .eot = QH_NO_TOKEN,
                        .unk = QH_NO_TOKEN,
                        .pad = QH_NO_TOKEN}};
    if (qh_mapfile_open(&file, path, &err)) goto failed;
    reader r = {file.data, file.data + file.len_bytes};
    if (memcmp(take(&r, 4), "GGUF", 4) != 0 || take_int(&r, 4) < 2) goto failed;
    take_int(&r, 8); /* tensors */
    uint64_t n_keys = take_int(&r, 8);
    d.spec.add_space_prefix = true; /* where the file does not say */
    for (uint64_t i = 0; i < n_keys; i++) read_key(&r, &d);

    d.spec.kind = strcmp(d.model, "llama") ? QH_TOKENIZER_BPE : QH_TOKENIZER_SPM;
    d.spec.pretokenizer = pretokenizer ? pretokenizer : d.pretokenizer[0] ? d.pretokenizer : NULL;
    d.spec.pieces = d.pieces;
    d.spec.merges = d.merges;
    d.spec.scores = d.scores;
    d.spec.types = d.types;
    if (qh_vocab_new(&v, &d.spec, &err)) goto failed;
    qh_free(d.pieces);
    qh_free(d.merges);
    qh_free(d.scores);
    qh_free(d.types);
    qh_mapfile_close(&file);
    return v;
failed:
    fprintf(stderr, "vocab file %s: %s\n", path, err.msg);
    exit(1);
}
