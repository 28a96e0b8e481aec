/* text_tool.c - tests only: a GGUF file's tokenizer on the command line, for comparison with other
 * programs and for measuring.
 *
 *   text_tool ids GGUF [PRETOKENIZER]   stdin: texts, each a decimal length, a newline, the bytes;
 *                                       stdout: a line of ids for each, no special tokens parsed
 *   text_tool bench GGUF FILE [MIN]     MB/s of processor time on one core, best of some rounds; fails below MIN */
#include "base/mapfile.h"
#include "base/mem.h"
#include "text/detok.h"
#include "text/tokenizer.h"
#include "vocab_file.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int fail_with(const char *what, const qh_err *err)
{
    fprintf(stderr, "%s: %s\n", what, err->msg);
    return 1;
}

static int print_ids(const qh_tokenizer *t)
{
    qh_tokens ids = {0};
    qh_err err = {0};
    size_t len;
    while (scanf("%zu", &len) == 1 && getchar() == '\n') {
        char *text = qh_alloc0(len + 1);
        if (fread(text, 1, len, stdin) != len) return fail_with("stdin ends early", &err);
        ids.len = 0;
        if (qh_tokenizer_encode(t, text, len, 0, &ids, &err)) return fail_with("encode", &err);
        for (int i = 0; i < ids.len; i++) printf("%s%d", i ? " " : "", (int)ids.ids[i]);
        printf("\n");
        qh_free(text);
    }
    qh_tokens_deinit(&ids);
    return 0;
}

static int64_t cpu_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static int bench(const qh_tokenizer *t, const char *path, double min_mb_s)
{
    enum { ROUNDS = 10 };
    qh_err err = {0};
    qh_mapfile file;
    if (qh_mapfile_open(&file, path, &err)) return fail_with(path, &err);
    qh_tokens ids = {0};
    qh_str back = {0};
    int64_t best_us = INT64_MAX, back_us = INT64_MAX;
    for (int i = 0; i < ROUNDS; i++) {
        ids.len = 0;
        qh_str_clear(&back);
        int64_t t0 = cpu_us();
        if (qh_tokenizer_encode(t, (const char *)file.data, file.len_bytes, 0, &ids, &err))
            return fail_with(path, &err);
        int64_t t1 = cpu_us();
        qh_detok d;
        qh_detok_init(&d, qh_tokenizer_vocab(t), true);
        for (int k = 0; k < ids.len; k++) qh_detok_push(&d, ids.ids[k], &back);
        qh_detok_finish(&d, &back);
        int64_t t2 = cpu_us();
        if (t1 - t0 < best_us) best_us = t1 - t0;
        if (t2 - t1 < back_us) back_us = t2 - t1;
    }
    const double mb_s = (double)file.len_bytes / (double)best_us;
    printf("%zu bytes, %d tokens: encode %.1f MB/s, decode %.1f MB/s\n", file.len_bytes, ids.len, mb_s,
           (double)back.len / (double)back_us);
    qh_tokens_deinit(&ids);
    qh_str_deinit(&back);
    qh_mapfile_close(&file);
    if (mb_s >= min_mb_s) return 0;
    fprintf(stderr, "encode: %.1f MB/s, expected at least %.1f\n", mb_s, min_mb_s);
    return 1;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: text_tool ids GGUF [PRETOKENIZER] | text_tool bench GGUF FILE [MIN_MB_S]\n");
        return 2;
    }
    qh_err err = {0};
    qh_tokenizer *t;
    bool is_bench = !strcmp(argv[1], "bench") && (argc == 4 || argc == 5);
    qh_vocab *v = test_vocab_open(argv[2], is_bench ? NULL : argv[3]);
    if (!v) return fail_with(argv[2], &err);
    if (qh_tokenizer_new(&t, v, &err)) return fail_with(argv[2], &err);
    int rc = is_bench ? bench(t, argv[3], argc == 5 ? atof(argv[4]) : 0) : print_ids(t);
    qh_tokenizer_free(t);
    qh_vocab_free(v);
    return rc;
}
