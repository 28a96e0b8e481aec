#include "test.h"
#include "tiny_model.h"
#include "model/rope.h"
#include "model/weights.h"
#include <math.h>

typedef struct {
    gguf_builder b;
    qh_gguf *g;
    qh_desc d;
    qh_weights w;
    qh_err err;
} loaded;

static qh_status load(loaded *l, const recipe *r)
{
    *l = (loaded){0};
    put_model(&l->b, r);
    qh_status st = qh_gguf_open_bytes(&l->g, "m.gguf", l->b.bytes.data, l->b.bytes.len, &l->err);
    if (!st) st = qh_desc_read(&l->d, l->g, &l->err);
    if (!st) st = qh_weights_bind(&l->w, &l->d, l->g, &l->err);
    return st;
}

static void unload(loaded *l)
{
    qh_weights_deinit(&l->w);
    qh_gguf_close(l->g);
    qh_str_deinit(&l->b.bytes);
}

static const recipe llama = {.arch = "llama"};
static const recipe qwen2 = {.arch = "qwen2", .has_bias = true, .has_head = true};
static const recipe qwen3 = {.arch = "qwen3", .has_qk_norm = true, .head_dim = 48};

TEST(a_llama_checkpoint_becomes_a_description_and_weights)
{
    loaded l;
    if (load(&l, &llama)) fail_msg("%s", l.err.msg);
    CHECK_STR(l.d.arch, "llama");
    CHECK(l.d.n_layers == 2 && l.d.dim == 64 && l.d.ffn_dim == 96 && l.d.n_vocab == 10);
    CHECK(l.d.n_heads == 2 && l.d.n_kv_heads == 1 && l.d.head_dim == 32 && l.d.n_ctx_train == 1024);
    CHECK(l.d.norm_eps == 1e-5f && l.d.rope_base == 50000 && l.d.rope_dim == 32);
    CHECK(l.d.rope_kind == QH_ROPE_INTERLEAVED && l.d.rope_scale == QH_ROPE_SCALE_NONE);
    CHECK(l.d.is_tied && !l.d.has_qkv_bias && !l.d.has_qk_norm);
    CHECK(fabsf(l.d.attn_scale - 1 / sqrtf(32)) < 1e-7f);

    CHECK(l.w.head.data == l.w.embed.data && l.w.embed.n_rows == 10 && l.w.embed.dim == 64);
    const qh_layer_weights *last = &l.w.layers[1];
    CHECK_STR(last->w_down.name, "blk.1.ffn_down.weight");
    CHECK(last->w_down.dtype == QH_Q5_1 && last->w_down.n_rows == 64 && last->w_down.dim == 96);
    CHECK(last->wq.n_rows == 64 && last->wk.n_rows == 32 && last->wo.dim == 64);
    CHECK(last->attn_norm.n_rows == 1 && last->attn_norm.dim == 64);
    CHECK(!last->bq.data && !last->q_norm.data && !l.w.rope_factors.data);
    unload(&l);
}

TEST(a_qwen2_checkpoint_has_biases_and_a_head)
{
    loaded l;
    if (load(&l, &qwen2)) fail_msg("%s", l.err.msg);
    CHECK(l.d.has_qkv_bias && !l.d.is_tied && l.d.rope_kind == QH_ROPE_NEOX);
    CHECK(l.w.head.data != l.w.embed.data && l.w.head.dtype == QH_Q4_0);
    CHECK(l.w.layers[0].bq.dim == 64 && l.w.layers[1].bv.dim == 32);
    unload(&l);
}

TEST(a_qwen3_checkpoint_has_head_norms_and_its_own_head_size)
{
    loaded l;
    if (load(&l, &qwen3)) fail_msg("%s", l.err.msg);
    CHECK(l.d.has_qk_norm && l.d.head_dim == 48 && l.d.rope_dim == 48 && l.d.rope_kind == QH_ROPE_NEOX);
    CHECK(qh_desc_q_dim(&l.d) == 96 && qh_desc_kv_dim(&l.d) == 48);
    CHECK(l.w.layers[1].wq.n_rows == 96 && l.w.layers[1].wo.dim == 96 && l.w.layers[1].k_norm.dim == 48);
    unload(&l);
}

TEST(llama_with_biases_in_the_file_uses_them)
{
    recipe r = llama;
    r.has_bias = true;
    loaded l;
    if (load(&l, &r)) fail_msg("%s", l.err.msg);
    CHECK(l.d.has_qkv_bias && l.w.layers[1].bk.data);
    unload(&l);
}

/* ---- what is refused: one row an error path ---- */

static void arch_gpt(gguf_builder *b) { gb_string(b, "general.architecture", "gpt\n9"); }
static void experts(gguf_builder *b) { gb_u32(b, "llama.expert_count", 8); }
static void not_causal(gguf_builder *b) { gb_bool(b, "llama.attention.causal", 0); }
static void logit_scale(gguf_builder *b) { gb_f32(b, "llama.logit_scale", 0.5f); }
static void softcap(gguf_builder *b) { gb_f32(b, "llama.attn_logit_softcapping", 50); }
static void blocks_0(gguf_builder *b) { gb_u32(b, "llama.block_count", 0); }
static void blocks_many(gguf_builder *b) { gb_u32(b, "llama.block_count", 4000000000u); }
static void blocks_3(gguf_builder *b) { gb_u32(b, "llama.block_count", 3); }
static void blocks_1(gguf_builder *b) { gb_u32(b, "llama.block_count", 1); }
static void ffn_array(gguf_builder *b)
{
    gb_array(b, "llama.feed_forward_length", QH_GGUF_U32, 2), gb_raw_u32(b, 96), gb_raw_u32(b, 96);
}
static void width_string(gguf_builder *b) { gb_string(b, "llama.embedding_length", "64"); }
static void kv_heads_3(gguf_builder *b) { gb_u32(b, "llama.attention.head_count_kv", 3); }
static void heads_3(gguf_builder *b) { gb_u32(b, "llama.attention.head_count", 3); }
static void heads_64(gguf_builder *b) { gb_u32(b, "llama.attention.head_count", 64); }
static void key_length_31(gguf_builder *b) { gb_u32(b, "llama.attention.key_length", 31); }
static void key_length_1024(gguf_builder *b) { gb_u32(b, "llama.attention.key_length", 1024); }
static void value_length_16(gguf_builder *b) { gb_u32(b, "llama.attention.value_length", 16); }
static void eps_negative(gguf_builder *b) { gb_f32(b, "llama.attention.layer_norm_rms_epsilon", -1); }
static void eps_nan(gguf_builder *b) { gb_f32(b, "llama.attention.layer_norm_rms_epsilon", NAN); }
static void base_0(gguf_builder *b) { gb_f32(b, "llama.rope.freq_base", 0); }
static void base_inf(gguf_builder *b) { gb_f32(b, "llama.rope.freq_base", INFINITY); }
static void rope_dim_64(gguf_builder *b) { gb_u32(b, "llama.rope.dimension_count", 64); }
static void rope_dim_7(gguf_builder *b) { gb_u32(b, "llama.rope.dimension_count", 7); }
static void longrope(gguf_builder *b) { gb_string(b, "llama.rope.scaling.type", "longrope"); }
static void tiny_factor(gguf_builder *b) { gb_f32(b, "llama.rope.scaling.factor", 1e-6f); }
static void attn_factor(gguf_builder *b) { gb_f32(b, "llama.rope.scaling.attn_factor", 2); }
static void scaled_and_factors(gguf_builder *b)
{
    gb_f32(b, "llama.rope.scaling.factor", 2), gb_tensor(b, "rope_freqs.weight", 16, 0, QH_F32);
}
static void vocab_string(gguf_builder *b) { gb_string(b, "llama.vocab_size", "many"); }
static void tokens_9(gguf_builder *b)
{
    gb_strings(b, "tokenizer.ggml.tokens", (const char *const[]){"a", "b", "c", "d", "e", "f", "g", "h", "i"}, 9);
}
static void tokens_ints(gguf_builder *b) { gb_array(b, "tokenizer.ggml.tokens", QH_GGUF_U8, 1), gb_raw(b, "x", 1); }
static void extra_tensor(gguf_builder *b) { gb_tensor(b, "blk.0.attn_output.bias", 64, 0, QH_F32); }
static void wide_wq(gguf_builder *b) { gb_tensor(b, "blk.0.attn_q.weight", 64, 96, QH_F32); }
static void three_dims(gguf_builder *b)
{
    gb_tensor_at(b, "blk.1.ffn_up.weight", 3, (const uint64_t[3]){64, 96, 2}, QH_F32, b->data_bytes);
    b->data_bytes += 64 * 96 * 2 * 4;
}
static void quantized_norm(gguf_builder *b) { gb_tensor(b, "output_norm.weight", 64, 0, QH_Q4_0); }
static void short_factors(gguf_builder *b) { gb_tensor(b, "rope_freqs.weight", 8, 0, QH_F32); }

static const struct {
    const char *drop;                   /* a key, or a tensor when tensors is set */
    void (*more)(gguf_builder *b);
    bool tensors;
    qh_status status;
    const char *says;
} refusals[] = {
    {"general.architecture", NULL, 0, QH_ENOTFOUND, "key 'general.architecture': missing, expected a string"},
    {"general.architecture", arch_gpt, 0, QH_EUNSUPPORTED,
     "architecture 'gpt?9' is not supported, expected one of: llama, qwen2, qwen3"},
    {NULL, experts, 0, QH_EUNSUPPORTED, "key 'llama.expert_count': not supported by this version, expected a model"},
    {NULL, not_causal, 0, QH_EUNSUPPORTED, "key 'llama.attention.causal': not supported by this version, expected true"},
    {NULL, logit_scale, 0, QH_EUNSUPPORTED, "key 'llama.logit_scale': not supported by this version, expected 1"},
    {NULL, softcap, 0, QH_EUNSUPPORTED, "key 'llama.attn_logit_softcapping': not supported by this version, expected 0"},
    {"llama.block_count", NULL, 0, QH_ENOTFOUND, "key 'llama.block_count': missing, expected an integer from 1 to 1024"},
    {"llama.block_count", blocks_0, 0, QH_EFORMAT, "key 'llama.block_count': is 0, expected"},
    {"llama.block_count", blocks_many, 0, QH_EFORMAT, "key 'llama.block_count': is 4000000000, expected"},
    {"llama.block_count", blocks_3, 0, QH_EFORMAT, "tensor 'blk.2.attn_norm.weight': missing"},
    {"llama.block_count", blocks_1, 0, QH_EUNSUPPORTED, "has no place in a llama model of 1 layers"},
    {"llama.embedding_length", width_string, 0, QH_EFORMAT, "key 'llama.embedding_length': is a string, expected an"},
    {"llama.feed_forward_length", ffn_array, 0, QH_EFORMAT, "is an array of u32, expected an integer from 1"},
    {"llama.context_length", NULL, 0, QH_ENOTFOUND, "key 'llama.context_length': missing"},
    {"llama.attention.head_count_kv", kv_heads_3, 0, QH_EFORMAT, "is 3, expected a divisor of the 2 heads"},
    {"llama.attention.head_count", heads_3, 0, QH_EFORMAT, "is 3, expected a divisor of the width 64"},
    {"llama.attention.head_count", heads_64, 0, QH_EFORMAT, "a head size of 1, expected an even number up to 512"},
    {NULL, key_length_31, 0, QH_EFORMAT, "a head size of 31, expected an even number up to 512"},
    {NULL, key_length_1024, 0, QH_EFORMAT, "key 'llama.attention.key_length': is 1024, expected an integer from 2"},
    {NULL, value_length_16, 0, QH_EFORMAT, "key 'llama.attention.value_length': is 16, expected the head size 32"},
    {"llama.attention.layer_norm_rms_epsilon", NULL, 0, QH_ENOTFOUND, "layer_norm_rms_epsilon': missing, expected a float"},
    {"llama.attention.layer_norm_rms_epsilon", eps_negative, 0, QH_EFORMAT, "is -1, expected a float from 0 to 1"},
    {"llama.attention.layer_norm_rms_epsilon", eps_nan, 0, QH_EFORMAT, "nan, expected a float from 0 to 1"},
    {"llama.rope.freq_base", base_0, 0, QH_EFORMAT, "key 'llama.rope.freq_base': is 0, expected a float from 2"},
    {"llama.rope.freq_base", base_inf, 0, QH_EFORMAT, "key 'llama.rope.freq_base': is inf, expected a float from 2"},
    {NULL, rope_dim_64, 0, QH_EFORMAT, "key 'llama.rope.dimension_count': is 64, expected an integer from 2 to 32"},
    {NULL, rope_dim_7, 0, QH_EFORMAT, "key 'llama.rope.dimension_count': is 7, expected an even number up to 32"},
    {NULL, longrope, 0, QH_EUNSUPPORTED, "key 'llama.rope.scaling.type': is 'longrope', expected none, linear or yarn"},
    {NULL, tiny_factor, 0, QH_EFORMAT, "key 'llama.rope.scaling.factor': is 1e-06, expected 0 (none) or at least 0.001"},
    {NULL, attn_factor, 0, QH_EUNSUPPORTED, "key 'llama.rope.scaling.attn_factor': not supported by this version"},
    {NULL, scaled_and_factors, 0, QH_EUNSUPPORTED, "expected none, as the file has rope_freqs.weight"},
    {"llama.vocab_size", NULL, 0, QH_ENOTFOUND, "key 'llama.vocab_size': missing, expected an integer"},
    {"llama.vocab_size", vocab_string, 0, QH_EFORMAT, "key 'llama.vocab_size': is a string, expected an integer"},
    {NULL, tokens_9, 0, QH_EFORMAT, "tensor 'token_embd.weight': shape [64, 10], expected [64, 9]"},
    {NULL, tokens_ints, 0, QH_EFORMAT, "key 'tokenizer.ggml.tokens': is an array of u8, expected an array of"},
    {"token_embd.weight", NULL, 1, QH_EFORMAT, "tensor 'token_embd.weight': missing"},
    {"output_norm.weight", NULL, 1, QH_EFORMAT, "tensor 'output_norm.weight': missing"},
    {"blk.1.ffn_up.weight", NULL, 1, QH_EFORMAT, "tensor 'blk.1.ffn_up.weight': missing"},
    {"blk.1.ffn_up.weight", three_dims, 1, QH_EFORMAT, "'blk.1.ffn_up.weight': shape [64, 96, 2], expected [64, 96]"},
    {"blk.0.attn_q.weight", wide_wq, 1, QH_EFORMAT, "'blk.0.attn_q.weight': shape [64, 96], expected [64, 64]"},
    {"output_norm.weight", quantized_norm, 1, QH_EFORMAT, "'output_norm.weight': type Q4_0, expected F32, F16 or BF16"},
    {NULL, short_factors, 1, QH_EFORMAT, "tensor 'rope_freqs.weight': shape [8], expected [16]"},
    {NULL, extra_tensor, 1, QH_EUNSUPPORTED, "tensor 'blk.0.attn_output.bias': has no place in a llama model of 2 layers"},
};

TEST(each_checkpoint_that_cannot_be_run_is_refused_by_name)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        recipe r = llama;
        *(refusals[i].tensors ? &r.drop_tensor : &r.drop_key) = refusals[i].drop;
        r.more = refusals[i].more;
        r.more_is_tensors = refusals[i].tensors;
        loaded l;
        qh_status st = load(&l, &r);
        if (st != refusals[i].status || strncmp(l.err.msg, "m.gguf: ", 8) || !strstr(l.err.msg, refusals[i].says))
            fail_msg("row %zu: %s: %s\n  wanted %s: %s", i, qh_status_name(st), l.err.msg,
                     qh_status_name(refusals[i].status), refusals[i].says);
        CHECK(!l.w.layers);
        unload(&l);
    }
}

TEST(a_qwen2_without_biases_and_a_qwen3_with_them_are_refused)
{
    recipe r = qwen2;
    r.has_bias = false;
    loaded l;
    CHECK_STATUS(load(&l, &r), QH_EFORMAT);
    CHECK_STR(l.err.msg, "m.gguf: tensor 'blk.0.attn_q.bias': missing");
    unload(&l);
    r = qwen3;
    r.has_bias = true;
    CHECK_STATUS(load(&l, &r), QH_EUNSUPPORTED);
    CHECK(strstr(l.err.msg, "bias': has no place in a qwen3 model of 2 layers"));
    unload(&l);
}

TEST(a_vocabulary_without_weights_is_not_a_model)
{
    gguf_builder b = {0};
    gb_begin(&b, 3);
    gb_finish(&b, 0);
    qh_gguf *g;
    qh_weights w;
    qh_desc d = {.n_layers = 1};
    qh_err err = {0};
    CHECK_OK(qh_gguf_open_bytes(&g, "m.gguf", b.bytes.data, b.bytes.len, NULL));
    CHECK_STATUS(qh_weights_bind(&w, &d, g, &err), QH_EFORMAT);
    CHECK_STR(err.msg, "m.gguf: holds no tensors, expected a model's weights");
    qh_gguf_close(g);
    qh_str_deinit(&b.bytes);
}

/* ---- rope ---- */

static void linear_4(gguf_builder *b) { gb_f32(b, "llama.rope.scaling.factor", 4); }
static void legacy_linear(gguf_builder *b) { gb_f32(b, "llama.rope.scale_linear", 4); }
static void factors_16(gguf_builder *b) { gb_tensor(b, "rope_freqs.weight", 16, 0, QH_F32); }
static void yarn_4(gguf_builder *b)
{
    gb_string(b, "llama.rope.scaling.type", "yarn");
    gb_f32(b, "llama.rope.scaling.factor", 4);
    gb_u32(b, "llama.rope.scaling.original_context_length", 256);
}
static void window_100(gguf_builder *b) { gb_u32(b, "llama.attention.sliding_window", 100); }

static double first_freqs(void (*more)(gguf_builder *b), bool is_tensor, qh_desc *d, double freq[16])
{
    recipe r = llama;
    r.more = more;
    r.more_is_tensors = is_tensor;
    loaded l;
    if (load(&l, &r)) fail_msg("%s", l.err.msg);
    *d = l.d;
    const float *factors = l.w.rope_factors.data;
    double magnitude = qh_rope_freqs(d, factors, freq);
    unload(&l);
    return magnitude;
}

TEST(rope_frequencies_follow_the_scaling_of_the_file)
{
    qh_desc d;
    double plain[16], freq[16];
    CHECK(first_freqs(NULL, false, &d, plain) == 1 && d.rope_scale == QH_ROPE_SCALE_NONE);
    for (int j = 0; j < 16; j++) CHECK(fabs(plain[j] / pow(50000, -j / 16.0) - 1) < 1e-12);

    CHECK(first_freqs(linear_4, false, &d, freq) == 1 && d.rope_scale == QH_ROPE_SCALE_LINEAR);
    for (int j = 0; j < 16; j++) CHECK(fabs(freq[j] * 4 / plain[j] - 1) < 1e-12);
    CHECK(first_freqs(legacy_linear, false, &d, freq) == 1 && d.rope_scale == QH_ROPE_SCALE_LINEAR);
    CHECK(fabs(freq[3] * 4 / plain[3] - 1) < 1e-12);

    /* The fixture fills tensors with 0x3c: every divisor is that float. */
    const float divisor = 0x1.787878p-7f;
    CHECK(first_freqs(factors_16, true, &d, freq) == 1 && d.rope_scale == QH_ROPE_SCALE_FACTORS);
    for (int j = 0; j < 16; j++) CHECK(fabs(freq[j] * divisor / plain[j] - 1) < 1e-12);
}

TEST(yarn_keeps_fast_pairs_interpolates_slow_ones_and_scales_attention)
{
    qh_desc d;
    double plain[16], freq[16];
    first_freqs(NULL, false, &d, plain);
    double magnitude = first_freqs(yarn_4, false, &d, freq);
    CHECK(d.rope_scale == QH_ROPE_SCALE_YARN && d.rope_ctx_orig == 256);
    CHECK(fabs(magnitude - (1 + 0.1 * log(4))) < 1e-12);
    CHECK(freq[0] == plain[0]);                             /* 40 turns in 256 positions */
    CHECK(fabs(freq[15] * 4 / plain[15] - 1) < 1e-12);      /* under one turn */
    for (int j = 1; j < 16; j++) CHECK(freq[j] < freq[j - 1] && freq[j] >= plain[j] / 4 * (1 - 1e-12));
}

static void context_262144(gguf_builder *b) { gb_u32(b, "llama.context_length", 262144); }

TEST(contexts_of_262144_are_described_and_turned_precisely)
{
    recipe r = llama;
    r.drop_key = "llama.context_length";
    r.more = context_262144;
    loaded l;
    CHECK_OK(load(&l, &r));
    CHECK_INT(l.d.n_ctx_train, 262144);
    double freq[16];
    qh_rope_freqs(&l.d, NULL, freq);
    for (int j = 0; j < 16; j++) {          /* against the definition in long double */
        const long double angle = 262143 * powl(50000, -j / 16.0L);
        CHECK(fabsl(262143 * (long double)freq[j] - angle) < 1e-9L);
    }
    unload(&l);
}

TEST(a_sliding_window_limits_the_context_that_is_exact)
{
    recipe r = llama;
    r.more = window_100;
    loaded l;
    CHECK_OK(load(&l, &r));
    CHECK_INT(l.d.n_ctx_train, 100);
    unload(&l);
}
TEST_MAIN()
