/* recipe.h - which stored type each tensor of a quantized file gets.
 *
 *   matrices          the recipe's type
 *   the output head   Q6_K in 4-bit recipes (the embedding too, where it is the head)
 *   Q4_K_M            attn_v and ffn_down of the first and last eighth of the layers, and of every
 *                     third between, Q6_K
 *   rows that are no multiple of 256   Q5_0 for Q4_K, Q8_0 for Q6_K; of 32: F16
 *   vectors (norms, biases)            as they are
 *
 * The mixture is llama.cpp's of the same name, so that files compare. Thread: any. */
#pragma once
#include "model/gguf.h"

#define QH_RECIPE_LIST(X)       /* name, type of matrices, general.file_type */                    \
    X("Q4_0", Q4_0, 2)                                                                             \
    X("Q4_1", Q4_1, 3)                                                                             \
    X("Q8_0", Q8_0, 7)                                                                             \
    X("Q4_K_M", Q4_K, 15)                                                                          \
    X("Q6_K", Q6_K, 18)                                                                            \
    X("BF16", BF16, 32)

typedef struct {
    const char *name;
    qh_dtype dtype;
    uint32_t file_type;
} qh_recipe;

/* Case does not matter. QH_EINVAL lists the names. */
qh_status qh_recipe_find(const qh_recipe **out, const char *name, qh_err *err);

/* Layers that tensors of g belong to, by their names. */
int qh_recipe_n_layers(const qh_gguf *g);
/* The type for t, a tensor of g, which has so many layers. */
qh_dtype qh_recipe_type(const qh_recipe *r, const qh_gguf *g, int n_layers,
                        const qh_gguf_tensor *t);
