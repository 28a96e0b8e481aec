#include "test.h"
#include "open_cost.h"
#include "tiny_model.h"
#include "model/model.h"
#include "model/vocabulary.h"

/* ---- fixtures: a model in a file that is gone when the test ends ---- */

static void write_file(char path[64], const qh_str *bytes)
{
    strcpy(path, "/tmp/qhost-model-test-XXXXXX.gguf");
    int fd = mkstemps(path, 5);
    CHECK(fd >= 0 && write(fd, bytes->data, bytes->len) == (ssize_t)bytes->len);
    close(fd);
}

static qh_status open_recipe(qh_model **m, const recipe *r, unsigned char change_last_byte, qh_err *err)
{
    gguf_builder b = {0};
    char path[64];
    put_model(&b, r);
    b.bytes.data[b.bytes.len - 64 * 2] ^= (char)change_last_byte;    /* the middle of output_norm */
    write_file(path, &b.bytes);
    qh_str_deinit(&b.bytes);
    qh_status st = qh_model_open(m, path, err);
    unlink(path);
    return st;
}

static void named(gguf_builder *b) { put_spm(b), gb_string(b, "general.name", "Tiny Größe"); }
static void badly_named(gguf_builder *b) { put_spm(b), gb_string(b, "general.name", "two\nlines"); }

static const recipe tiny = {.arch = "llama", .more = named};

TEST(a_model_opens_with_all_its_parts)
{
    qh_model *m;
    qh_err err = {0};
    if (open_recipe(&m, &tiny, 0, &err)) fail_msg("%s", err.msg);
    CHECK_STR(qh_model_name(m), "Tiny Größe");
    CHECK_STR(qh_model_chat_template(m), "{{ messages }}");
    CHECK(strstr(qh_model_path(m), "/tmp/qhost-model-test-") == qh_model_path(m));
    CHECK_INT(qh_model_desc(m)->n_vocab, 10);
    CHECK_INT(qh_model_weights(m)->embed.n_rows, 10);
    CHECK_INT(qh_vocab_len(qh_model_vocab(m)), 10);
    uint64_t bytes = 0;
    for (int i = 0; i < qh_gguf_n_tensors(qh_model_gguf(m)); i++)
        bytes += qh_gguf_tensor_at(qh_model_gguf(m), i)->len_bytes;
    CHECK(bytes && qh_model_weight_bytes(m) == bytes);
    qh_tokens ids = {0};
    CHECK_OK(qh_tokenizer_encode(qh_model_tokenizer(m), "a", 1, QH_ENCODE_ADD_SPECIAL, &ids, &err));
    CHECK(ids.len == 2 && ids.ids[0] == 1 && ids.ids[1] == 6);      /* <s>, " a" */
    qh_tokens_deinit(&ids);
    qh_model_close(m);
    qh_model_close(NULL);
}

TEST(a_name_that_is_not_fit_to_show_gives_way_to_the_file_name)
{
    recipe r = tiny;
    r.more = badly_named;
    qh_model *m;
    CHECK_OK(open_recipe(&m, &r, 0, NULL));
    CHECK(!strncmp(qh_model_name(m), "qhost-model-test-", 17) && !strchr(qh_model_name(m), '.'));
    qh_model_close(m);
}

static uint64_t id_of(const recipe *r, unsigned char change)
{
    qh_model *m;
    CHECK_OK(open_recipe(&m, r, change, NULL));
    uint64_t id = qh_model_id(m);
    qh_model_close(m);
    return id;
}

TEST(the_id_follows_metadata_and_weights_and_not_the_path)
{
    recipe other = tiny;
    other.more = put_spm;
    CHECK(id_of(&tiny, 0) == id_of(&tiny, 0));
    CHECK(id_of(&tiny, 0) != id_of(&other, 0));
    CHECK(id_of(&tiny, 0) != id_of(&tiny, 1));
}

TEST(a_model_needs_a_vocabulary_of_its_own_size)
{
    recipe r = tiny;
    qh_model *m;
    qh_err err = {0};
    r.more = NULL;
    CHECK_STATUS(open_recipe(&m, &r, 0, &err), QH_ENOTFOUND);
    CHECK(strstr(err.msg, "key 'tokenizer.ggml.model': missing, expected a string"));
    qh_err_clear(&err);
    r.more = put_bpe;
    CHECK_STATUS(open_recipe(&m, &r, 0, &err), QH_EFORMAT);
    CHECK(strstr(err.msg, "tensor 'token_embd.weight': shape [64, 10], expected [64, 6]"));
    CHECK(!m);
}

TEST(a_vocabulary_file_opens_as_text_only)
{
    gguf_builder b = {0};
    char path[64];
    gb_begin(&b, 3);
    gb_string(&b, "general.architecture", "somethingelse");
    put_bpe(&b);
    gb_finish(&b, 0);
    write_file(path, &b.bytes);
    qh_str_deinit(&b.bytes);
    qh_model *m;
    qh_err err = {0};
    CHECK_STATUS(qh_model_open(&m, path, &err), QH_EUNSUPPORTED);
    CHECK(strstr(err.msg, path) && strstr(err.msg, "architecture 'somethingelse' is not supported"));
    CHECK_OK(qh_model_open_text(&m, path, NULL));
    CHECK(!qh_model_desc(m) && !qh_model_weights(m) && qh_model_tokenizer(m) && !qh_model_chat_template(m));
    qh_model_close(m);
    unlink(path);
}

TEST(an_unknown_pretokenizer_is_refused_with_the_file)
{
    gguf_builder b = {.drop_key = "tokenizer.ggml.pre"};
    char path[64];
    gb_begin(&b, 3);
    put_bpe(&b);
    b.drop_key = NULL;
    gb_string(&b, "tokenizer.ggml.pre", "nosuch");
    gb_finish(&b, 0);
    write_file(path, &b.bytes);
    qh_str_deinit(&b.bytes);
    qh_model *m;
    qh_err err = {0};
    CHECK_STATUS(qh_model_open_text(&m, path, &err), QH_EUNSUPPORTED);
    CHECK(strstr(err.msg, path) == err.msg && strstr(err.msg, "\"nosuch\""));
    unlink(path);
}

/* ---- vocabularies ---- */

static qh_status read_vocab(qh_vocab **v, void (*base)(gguf_builder *b), const char *drop,
                            void (*more)(gguf_builder *b), qh_err *err)
{
    gguf_builder b = {.drop_key = drop};
    gb_begin(&b, 3);
    base(&b);
    b.drop_key = NULL;
    if (more) more(&b);
    gb_finish(&b, 0);
    qh_gguf *g;
    CHECK_OK(qh_gguf_open_bytes(&g, "v.gguf", b.bytes.data, b.bytes.len, NULL));
    qh_status st = qh_vocabulary_read(v, g, err);
    qh_gguf_close(g);
    qh_str_deinit(&b.bytes);
    return st;
}

TEST(sentencepiece_files_may_leave_ids_and_flags_out)
{
    qh_vocab *v;
    CHECK_OK(read_vocab(&v, put_spm, NULL, NULL, NULL));
    CHECK(qh_vocab_kind(v) == QH_TOKENIZER_SPM);
    CHECK(qh_vocab_bos(v) == 1 && qh_vocab_eos(v) == 2 && qh_vocab_unk(v) == 0);
    CHECK(qh_vocab_adds_bos(v) && !qh_vocab_adds_eos(v) && qh_vocab_adds_space(v));
    CHECK(qh_vocab_score(v, 5) == -5);
    qh_vocab_free(v);
}

static void flags(gguf_builder *b)
{
    gb_bool(b, "tokenizer.ggml.add_bos_token", 0), gb_bool(b, "tokenizer.ggml.add_eos_token", 1);
    gb_bool(b, "tokenizer.ggml.add_space_prefix", 0), gb_u32(b, "tokenizer.ggml.eot_token_id", 4);
    gb_u32(b, "tokenizer.ggml.eom_token_id", 5), gb_u32(b, "tokenizer.ggml.padding_token_id", 7);
}

TEST(flags_and_ids_of_the_file_are_taken)
{
    qh_vocab *v;
    CHECK_OK(read_vocab(&v, put_spm, NULL, flags, NULL));
    CHECK(!qh_vocab_adds_bos(v) && qh_vocab_adds_eos(v) && !qh_vocab_adds_space(v));
    CHECK(qh_vocab_eot(v) == 4 && qh_vocab_pad(v) == 7);
    CHECK(qh_vocab_is_stop(v, 4) && qh_vocab_is_stop(v, 5) && !qh_vocab_is_stop(v, 7));
    qh_vocab_free(v);
}

TEST(control_tokens_that_end_a_turn_are_stops_and_ordinary_tokens_are_not)
{
    qh_vocab *v;
    CHECK_OK(read_vocab(&v, put_spm, NULL, NULL, NULL));
    CHECK(qh_vocab_is_stop(v, 2) && qh_vocab_is_stop(v, 8));        /* </s>, <|im_end|> */
    CHECK(!qh_vocab_is_stop(v, 9) && !qh_vocab_is_stop(v, 1));      /* <|end|> is normal here; <s> */
    qh_vocab_free(v);
    CHECK_OK(read_vocab(&v, put_bpe, NULL, NULL, NULL));
    CHECK(qh_vocab_is_stop(v, 1) && qh_vocab_is_stop(v, 5));        /* <|endoftext|>, <|eot_id|> */
    qh_vocab_free(v);
}

static void pre_smollm(gguf_builder *b) { gb_string(b, "tokenizer.ggml.pre", "smollm"); }

TEST(llama_3_adds_bos_unless_told_otherwise)
{
    qh_vocab *v;
    CHECK_OK(read_vocab(&v, put_bpe, NULL, NULL, NULL));
    CHECK_STR(qh_vocab_pretokenizer(v), "llama-bpe");
    CHECK(qh_vocab_adds_bos(v) && !qh_vocab_adds_space(v));
    qh_vocab_free(v);
    CHECK_OK(read_vocab(&v, put_bpe, "tokenizer.ggml.pre", pre_smollm, NULL));
    CHECK(!qh_vocab_adds_bos(v));
    qh_vocab_free(v);
    CHECK_OK(read_vocab(&v, put_bpe, "tokenizer.ggml.pre", NULL, NULL));
    CHECK_STR(qh_vocab_pretokenizer(v), "default");
    qh_vocab_free(v);
}

static void kind_bert(gguf_builder *b) { gb_string(b, "tokenizer.ggml.model", "bert"); }
static void tokens_none(gguf_builder *b) { gb_strings(b, "tokenizer.ggml.tokens", NULL, 0); }
static void tokens_string(gguf_builder *b) { gb_string(b, "tokenizer.ggml.tokens", "abc"); }
static void tokens_twice(gguf_builder *b)
{
    gb_strings(b, "tokenizer.ggml.tokens", (const char *const[]){"<unk>", "x", "a", "b", "ab", "ab"}, 6);
}
static void types_short(gguf_builder *b)
{
    gb_array(b, "tokenizer.ggml.token_type", QH_GGUF_I32, 1), gb_raw_u32(b, 1);
}
static void types_wild(gguf_builder *b)
{
    gb_array(b, "tokenizer.ggml.token_type", QH_GGUF_I32, 6);
    for (uint32_t i = 0; i < 6; i++) gb_raw_u32(b, 7);
}
static void types_f32(gguf_builder *b)
{
    gb_array(b, "tokenizer.ggml.token_type", QH_GGUF_F32, 6);
    for (uint32_t i = 0; i < 6; i++) gb_raw_u32(b, 0);
}
static void scores_short(gguf_builder *b) { gb_array(b, "tokenizer.ggml.scores", QH_GGUF_F32, 1), gb_raw_u32(b, 0); }
static void pre_unprintable(gguf_builder *b) { gb_string(b, "tokenizer.ggml.pre", "a\nb"); }
static void pre_number(gguf_builder *b) { gb_u32(b, "tokenizer.ggml.pre", 3); }
static void merges_odd(gguf_builder *b) { gb_strings(b, "tokenizer.ggml.merges", (const char *const[]){"ab"}, 1); }
static void merges_ints(gguf_builder *b) { gb_array(b, "tokenizer.ggml.merges", QH_GGUF_U8, 1), gb_raw(b, "a", 1); }
static void bos_6(gguf_builder *b) { gb_u32(b, "tokenizer.ggml.bos_token_id", 6); }
static void eos_string(gguf_builder *b) { gb_string(b, "tokenizer.ggml.eos_token_id", "</s>"); }
static void eot_negative(gguf_builder *b) { gb_key(b, "tokenizer.ggml.eot_token_id", QH_GGUF_I32), gb_raw_u32(b, (uint32_t)-1); }
static void add_bos_number(gguf_builder *b) { gb_u32(b, "tokenizer.ggml.add_bos_token", 1); }

static const struct {
    void (*base)(gguf_builder *b);
    const char *drop;
    void (*more)(gguf_builder *b);
    qh_status status;
    const char *says;
} bad_vocabs[] = {
    {put_bpe, "tokenizer.ggml.model", NULL, QH_ENOTFOUND, "key 'tokenizer.ggml.model': missing, expected a string"},
    {put_bpe, "tokenizer.ggml.model", kind_bert, QH_EUNSUPPORTED, "key 'tokenizer.ggml.model': is 'bert', expected gpt2"},
    {put_bpe, "tokenizer.ggml.tokens", NULL, QH_ENOTFOUND, "key 'tokenizer.ggml.tokens': missing, expected an array"},
    {put_bpe, "tokenizer.ggml.tokens", tokens_none, QH_EFORMAT, "key 'tokenizer.ggml.tokens': has 0 items, expected"},
    {put_bpe, "tokenizer.ggml.tokens", tokens_string, QH_EFORMAT, "key 'tokenizer.ggml.tokens': is a string, expected"},
    {put_bpe, "tokenizer.ggml.tokens", tokens_twice, QH_EFORMAT, "token 5: piece \"ab\" is already token 4"},
    {put_bpe, "tokenizer.ggml.token_type", types_short, QH_EFORMAT, "key 'tokenizer.ggml.token_type': has 1 items, expected an array of 6 to 6"},
    {put_bpe, "tokenizer.ggml.token_type", types_f32, QH_EFORMAT, "key 'tokenizer.ggml.token_type': is an array of f32"},
    {put_bpe, "tokenizer.ggml.token_type", types_wild, QH_EFORMAT, "token 0: type 7, expected 1 to 6"},
    {put_spm, "tokenizer.ggml.scores", NULL, QH_ENOTFOUND, "key 'tokenizer.ggml.scores': missing, expected an array of 10"},
    {put_spm, "tokenizer.ggml.scores", scores_short, QH_EFORMAT, "key 'tokenizer.ggml.scores': has 1 items, expected"},
    {put_bpe, "tokenizer.ggml.pre", pre_unprintable, QH_EFORMAT, "key 'tokenizer.ggml.pre': byte 0x0a, expected a name"},
    {put_bpe, "tokenizer.ggml.pre", pre_number, QH_EFORMAT, "key 'tokenizer.ggml.pre': is a u32, expected a string"},
    {put_bpe, "tokenizer.ggml.merges", NULL, QH_ENOTFOUND, "key 'tokenizer.ggml.merges': missing, expected an array"},
    {put_bpe, "tokenizer.ggml.merges", merges_odd, QH_EFORMAT, "merge 0: \"ab\", expected two pieces"},
    {put_bpe, "tokenizer.ggml.merges", merges_ints, QH_EFORMAT, "key 'tokenizer.ggml.merges': is an array of u8"},
    {put_bpe, "tokenizer.ggml.bos_token_id", bos_6, QH_EFORMAT, "key 'tokenizer.ggml.bos_token_id': is 6, expected an integer from 0 to 5"},
    {put_bpe, "tokenizer.ggml.eos_token_id", eos_string, QH_EFORMAT, "key 'tokenizer.ggml.eos_token_id': is a string"},
    {put_bpe, NULL, eot_negative, QH_EFORMAT, "key 'tokenizer.ggml.eot_token_id': is -1, expected an integer from 0"},
    {put_bpe, NULL, add_bos_number, QH_EFORMAT, "key 'tokenizer.ggml.add_bos_token': is a u32, expected a bool"},
};

TEST(each_bad_vocabulary_is_refused_by_file_and_key)
{
    for (size_t i = 0; i < sizeof bad_vocabs / sizeof *bad_vocabs; i++) {
        qh_vocab *v = (qh_vocab *)1;
        qh_err err = {0};
        qh_status st = read_vocab(&v, bad_vocabs[i].base, bad_vocabs[i].drop, bad_vocabs[i].more, &err);
        if (st != bad_vocabs[i].status || strncmp(err.msg, "v.gguf: ", 8) || !strstr(err.msg, bad_vocabs[i].says))
            fail_msg("row %zu: %s: %s\n  wanted %s", i, qh_status_name(st), err.msg, bad_vocabs[i].says);
        CHECK(!v);
    }
}

static void template_zero(gguf_builder *b)
{
    b->drop_key = "tokenizer.chat_template", put_spm(b), b->drop_key = NULL;
    gb_key(b, "tokenizer.chat_template", QH_GGUF_STRING), gb_raw_str(b, "a\0b", 3);
}
static void template_number(gguf_builder *b)
{
    b->drop_key = "tokenizer.chat_template", put_spm(b), b->drop_key = NULL;
    gb_u32(b, "tokenizer.chat_template", 1);
}
static void template_large(gguf_builder *b)
{
    static char text[(1 << 20) + 2];
    memset(text, 'x', sizeof text - 1);
    b->drop_key = "tokenizer.chat_template", put_spm(b), b->drop_key = NULL;
    gb_string(b, "tokenizer.chat_template", text);
}
static void name_number(gguf_builder *b) { put_spm(b), gb_u32(b, "general.name", 1); }

TEST(bad_texts_of_a_model_are_refused)
{
    static const struct {
        void (*more)(gguf_builder *b);
        qh_status status;
        const char *says;
    } rows[] = {
        {template_zero, QH_EFORMAT, "key 'tokenizer.chat_template': holds a zero byte, expected text"},
        {template_number, QH_EFORMAT, "key 'tokenizer.chat_template': is a u32, expected a string"},
        {template_large, QH_ELIMIT, "key 'tokenizer.chat_template': 1048577 bytes, expected at most 1048576"},
        {name_number, QH_EFORMAT, "key 'general.name': is a u32, expected a string"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        recipe r = tiny;
        r.more = rows[i].more;
        qh_model *m;
        qh_err err = {0};
        CHECK_STATUS(open_recipe(&m, &r, 0, &err), rows[i].status);
        if (!strstr(err.msg, rows[i].says)) fail_msg("row %zu: %s", i, err.msg);
        CHECK(!m);
    }
}

/* As many tokens and merges as are accepted, and as many bytes of them; the last merge is wrong. */
static void put_worst_vocabulary(gguf_builder *b)
{
    gb_begin(b, 3);
    gb_string(b, "tokenizer.ggml.model", "gpt2");
    gb_array(b, "tokenizer.ggml.tokens", QH_GGUF_STRING, QH_MAX_VOCAB);
    for (int i = 0; i < QH_MAX_VOCAB; i++) {
        static const char *const first[] = {"a", "b", "ab"};
        char piece[32];
        snprintf(piece, sizeof piece, "%020d", i);
        const char *p = i < 3 ? first[i] : piece;
        gb_raw_str(b, p, strlen(p));
    }
    gb_array(b, "tokenizer.ggml.merges", QH_GGUF_STRING, QH_MAX_MERGES);
    for (int i = 1; i < QH_MAX_MERGES; i++) gb_raw_str(b, "a b", 3);
    gb_raw_str(b, "x", 1);
    gb_finish(b, 0);
}

static qh_status open_text_and_close(const char *path, qh_err *err)
{
    qh_model *m;
    const qh_status st = qh_model_open_text(&m, path, err);
    qh_model_close(m);
    return st;
}

TEST(the_worst_vocabulary_within_the_limits_costs_under_a_second_and_64_mb)
{
    gguf_builder b = {0};
    put_worst_vocabulary(&b);
    const open_cost cost = measure_open(open_text_and_close, &b.bytes);
    check_cost(&cost, QH_EFORMAT, "merge 524287: ");
}

/* ---- the real models, where they have been fetched ---- */

static qh_status open_fetched(qh_model **m, const char *file)
{
    const char *models = getenv("QHOST_MODELS"), *home = getenv("HOME");
    char path[4096];
    if (models) snprintf(path, sizeof path, "%s/%s", models, file);
    else snprintf(path, sizeof path, "%s/.cache/qhost/models/%s", home ? home : "", file);
    qh_err err = {0};
    qh_status st = qh_model_open(m, path, &err);
    if (st && st != QH_ENOTFOUND) fail_msg("%s", err.msg);
    return st;
}

TEST(the_default_model_is_described_rightly)
{
    qh_model *m;
    if (open_fetched(&m, "SmolLM2-135M-Instruct.Q4_1.gguf")) {
        SKIP("the default model is not there");
        return;
    }
    const qh_desc *d = qh_model_desc(m);
    CHECK_STR(d->arch, "llama");
    CHECK(d->n_layers == 30 && d->dim == 576 && d->ffn_dim == 1536 && d->n_vocab == 49152);
    CHECK(d->n_heads == 9 && d->n_kv_heads == 3 && d->head_dim == 64 && d->n_ctx_train == 8192);
    CHECK(d->rope_base == 100000 && d->rope_kind == QH_ROPE_INTERLEAVED && d->is_tied);
    CHECK(qh_model_weights(m)->embed.dtype == QH_Q8_0 && qh_model_weights(m)->layers[29].wq.dtype == QH_Q4_1);
    CHECK(qh_vocab_is_stop(qh_model_vocab(m), 0) && qh_vocab_is_stop(qh_model_vocab(m), 2));
    CHECK(!qh_vocab_adds_bos(qh_model_vocab(m)) && strstr(qh_model_chat_template(m), "<|im_start|>"));
    qh_model_close(m);
}

TEST(the_second_model_is_described_rightly)
{
    qh_model *m;
    if (open_fetched(&m, "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf")) {
        SKIP("the second model is not there");
        return;
    }
    const qh_desc *d = qh_model_desc(m);
    CHECK_STR(d->arch, "qwen2");
    CHECK(d->n_layers == 24 && d->dim == 896 && d->ffn_dim == 4864 && d->n_vocab == 151936);
    CHECK(d->n_heads == 14 && d->n_kv_heads == 2 && d->head_dim == 64 && d->n_ctx_train == 32768);
    CHECK(d->rope_base == 1000000 && d->rope_kind == QH_ROPE_NEOX && d->has_qkv_bias && !d->is_tied);
    CHECK(qh_model_weights(m)->head.dtype == QH_Q8_0);
    CHECK(qh_vocab_is_stop(qh_model_vocab(m), 151643) && qh_vocab_is_stop(qh_model_vocab(m), 151645));
    qh_model_close(m);
}
TEST_MAIN()
