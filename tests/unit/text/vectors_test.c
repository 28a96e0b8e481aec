/* The tokenizer vectors of llama.cpp: 46 texts and their ids for each vocabulary, made by the
 * models' original tokenizers. No bos, no special tokens parsed. */
#include "test.h"
#include "base/mapfile.h"
#include "base/str.h"
#include "text/detok.h"
#include "text/tokenizer.h"
#include "vocab_file.h"

enum { N_TEXTS = 46 };
static const char separator[] = "\n__ggml_vocab_test__\n";

static void print_ids(const char *label, const qh_token *ids, int n)
{
    print_error("%s", label);
    for (int i = 0; i < n; i++) print_error(" %d", (int)ids[i]);
    print_error("\n");
}

/* Reads one line of ids. */
static int parse_ids(const char **at, const char *end, qh_token *ids, int cap)
{
    int n = 0;
    while (*at < end && **at != '\n') {
        char *after;
        ids[n++] = (qh_token)strtol(*at, &after, 10);
        if (after == *at || n == cap) fail_msg("ids are not numbers, or more than %d", cap);
        *at = after;
        while (*at < end && **at == ' ') ++*at;
    }
    if (*at < end) ++*at;
    return n;
}

static void check_text(const qh_tokenizer *t, const char *text, size_t len, const qh_token *want,
                       int n_want)
{
    qh_tokens got = {0};
    CHECK_OK(qh_tokenizer_encode(t, text, len, 0, &got, NULL));
    if (got.len != n_want || memcmp(got.ids, want, (size_t)n_want * sizeof *want)) {
        print_error("text \"%.*s\"\n", (int)len, text);
        print_ids("want", want, n_want);
        print_ids("got ", got.ids, got.len);
        fail();
    }
    qh_str back = {0};
    qh_detok_all(qh_tokenizer_vocab(t), got.ids, got.len, false, &back);
    CHECK(back.len == len && memcmp(qh_str_z(&back), text, len) == 0);
    qh_str_deinit(&back);
    qh_tokens_deinit(&got);
}

static void check_vectors(const char *name)
{
    char path[4096];
    qh_mapfile inp, out;
    if (!qh_test_data()) SKIP("QH_TEST_DATA is not set");
    snprintf(path, sizeof path, "%s/tokenizers/ggml-vocab-%s.gguf", qh_test_data(), name);
    qh_vocab *v = test_vocab_open(path, NULL);
    if (!v) SKIP("no tokenizers in QH_TEST_DATA");
    qh_tokenizer *t;
    CHECK_OK(qh_tokenizer_new(&t, v, NULL));
    size_t dir = strlen(path);
    snprintf(path + dir, sizeof path - dir, ".inp");
    CHECK_OK(qh_mapfile_open(&inp, path, NULL));
    snprintf(path + dir, sizeof path - dir, ".out");
    CHECK_OK(qh_mapfile_open(&out, path, NULL));

    const char *text = (const char *)inp.data, *end = text + inp.len_bytes;
    const char *ids_at = (const char *)out.data, *ids_end = ids_at + out.len_bytes;
    int n_texts = 0;
    for (const char *next; text < end; text = next + strlen(separator), n_texts++) {
        next = memmem(text, (size_t)(end - text), separator, strlen(separator));
        CHECK(next);
        qh_token want[1024];
        int n_want = parse_ids(&ids_at, ids_end, want, 1024);
        check_text(t, text, (size_t)(next - text), want, n_want);
    }
    CHECK_INT(n_texts, N_TEXTS);
    qh_mapfile_close(&inp);
    qh_mapfile_close(&out);
    qh_tokenizer_free(t);
    qh_vocab_free(v);
}

TEST(gpt_2_matches_its_vectors)
{
    check_vectors("gpt-2");
}
TEST(falcon_matches_its_vectors)
{
    check_vectors("falcon");
}
TEST(starcoder_matches_its_vectors)
{
    check_vectors("starcoder");
}
TEST(deepseek_llm_matches_its_vectors)
{
    check_vectors("deepseek-llm");
}
TEST(llama_spm_matches_its_vectors)
{
    check_vectors("llama-spm");
}
TEST(phi_3_matches_its_vectors)
{
    check_vectors("phi-3");
}
TEST_MAIN()
