/* tiny_model.h - checkpoints in memory: two layers, width 64, two query heads, one KV head of 32.
 *
 * A recipe says what is in it, and lets a test leave out a key or tensor and add its own. */
#pragma once
#include "gguf_builder.h"
#include "text/vocab.h"
#include <stdio.h>

typedef struct {
    const char *arch, *drop_key, *drop_tensor;
    void (*more)(gguf_builder *b);      /* further keys or tensors; NULL: none */
    bool more_is_tensors;
    bool has_bias, has_qk_norm, has_head;
    int head_dim;                       /* 0: 32, and no key */
    int n_layers;                       /* 0: 2 */
} recipe;

static inline const char *arch_key(const recipe *r, const char *name)
{
    static char keys[4][96];
    static int n;
    char *key = keys[n++ % 4];
    snprintf(key, 96, "%s.%s", r->arch, name);
    return key;
}

static inline void put_layer(gguf_builder *b, const recipe *r, int i)
{
    const uint64_t head = r->head_dim ? (uint64_t)r->head_dim : 32, q = 2 * head, kv = head;
    char name[64];
#define T(what, dim, rows, type) snprintf(name, sizeof name, "blk.%d." what, i), gb_tensor(b, name, dim, rows, type)
    T("attn_norm.weight", 64, 0, QH_F32);
    T("attn_q.weight", 64, q, QH_Q4_0);
    T("attn_k.weight", 64, kv, QH_Q8_0);
    T("attn_v.weight", 64, kv, QH_F16);
    T("attn_output.weight", q, 64, QH_Q8_0);
    T("ffn_norm.weight", 64, 0, QH_F16);
    T("ffn_gate.weight", 64, 96, QH_Q4_1);
    T("ffn_up.weight", 64, 96, QH_Q5_0);
    T("ffn_down.weight", 96, 64, QH_Q5_1);
    if (r->has_bias) T("attn_q.bias", q, 0, QH_F32), T("attn_k.bias", kv, 0, QH_F32), T("attn_v.bias", kv, 0, QH_F32);
    if (r->has_qk_norm) T("attn_q_norm.weight", head, 0, QH_F32), T("attn_k_norm.weight", head, 0, QH_BF16);
#undef T
}

static inline void put_model(gguf_builder *b, const recipe *r)
{
    const int n_layers = r->n_layers ? r->n_layers : 2;
    b->drop_key = r->drop_key;
    b->drop_tensor = r->drop_tensor;
    gb_begin(b, 3);
    gb_string(b, "general.architecture", r->arch);
    gb_u32(b, arch_key(r, "block_count"), (uint32_t)n_layers);
    gb_u32(b, arch_key(r, "embedding_length"), 64);
    gb_u32(b, arch_key(r, "feed_forward_length"), 96);
    gb_u32(b, arch_key(r, "context_length"), 1024);
    gb_u32(b, arch_key(r, "attention.head_count"), 2);
    gb_u32(b, arch_key(r, "attention.head_count_kv"), 1);
    if (r->head_dim) gb_u32(b, arch_key(r, "attention.key_length"), (uint32_t)r->head_dim);
    if (r->head_dim) gb_u32(b, arch_key(r, "attention.value_length"), (uint32_t)r->head_dim);
    gb_f32(b, arch_key(r, "attention.layer_norm_rms_epsilon"), 1e-5f);
    gb_f32(b, arch_key(r, "rope.freq_base"), 50000);
    gb_u32(b, arch_key(r, "vocab_size"), 10);
    if (r->more && !r->more_is_tensors) b->drop_key = NULL, r->more(b);
    gb_tensor(b, "token_embd.weight", 64, 10, QH_Q8_0);
    for (int i = 0; i < n_layers; i++) put_layer(b, r, i);
    gb_tensor(b, "output_norm.weight", 64, 0, QH_F32);
    if (r->has_head) gb_tensor(b, "output.weight", 64, 10, QH_Q4_0);
    if (r->more && r->more_is_tensors) b->drop_tensor = NULL, r->more(b);
    gb_finish(b, 0x3c);
}


/* A SentencePiece vocabulary of ten tokens, as many as the model has rows. */
static inline void put_spm(gguf_builder *b)
{
    static const char *const tokens[10] = {"<unk>", "<s>",  "</s>", "\xe2\x96\x81",   "a",
                                           "b",     ("\xe2\x96\x81" "a"), "ab", "<|im_end|>", "<|end|>"};
    static const uint32_t types[10] = {QH_TOKEN_UNKNOWN, QH_TOKEN_CONTROL, QH_TOKEN_CONTROL, QH_TOKEN_NORMAL,
                                       QH_TOKEN_NORMAL,  QH_TOKEN_NORMAL,  QH_TOKEN_NORMAL,  QH_TOKEN_NORMAL,
                                       QH_TOKEN_CONTROL, QH_TOKEN_NORMAL};
    gb_string(b, "tokenizer.ggml.model", "llama");
    gb_strings(b, "tokenizer.ggml.tokens", tokens, 10);
    if (gb_array(b, "tokenizer.ggml.scores", QH_GGUF_F32, 10))
        for (int i = 0; i < 10; i++) gb_raw(b, &(float){(float)-i}, 4);
    if (gb_array(b, "tokenizer.ggml.token_type", QH_GGUF_I32, 10)) gb_raw(b, types, sizeof types);
    gb_string(b, "tokenizer.chat_template", "{{ messages }}");
}

/* A byte-level BPE vocabulary; bytes that it lacks become <unk>. */
static inline void put_bpe(gguf_builder *b)
{
    static const char *const tokens[6] = {"<unk>", "<|endoftext|>", "a", "b", "ab", "<|eot_id|>"};
    static const uint32_t types[6] = {QH_TOKEN_UNKNOWN, QH_TOKEN_CONTROL, QH_TOKEN_NORMAL,
                                      QH_TOKEN_NORMAL,  QH_TOKEN_NORMAL,  QH_TOKEN_CONTROL};
    gb_string(b, "tokenizer.ggml.model", "gpt2");
    gb_string(b, "tokenizer.ggml.pre", "llama-bpe");
    gb_strings(b, "tokenizer.ggml.tokens", tokens, 6);
    if (gb_array(b, "tokenizer.ggml.token_type", QH_GGUF_I32, 6)) gb_raw(b, types, sizeof types);
    gb_strings(b, "tokenizer.ggml.merges", (const char *const[]){"a b"}, 1);
    gb_u32(b, "tokenizer.ggml.bos_token_id", 1);
    gb_u32(b, "tokenizer.ggml.eos_token_id", 1);
    gb_u32(b, "tokenizer.ggml.unknown_token_id", 0);
}
