/* recipe.c - see recipe.h */
#include "model/recipe.h"
#include "model/arch.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const qh_recipe k_recipes[] = {
#define X(name, dtype, file_type) {name, QH_##dtype, file_type},
    QH_RECIPE_LIST(X)
#undef X
};

static const char k_names[] =
#define X(name, dtype, file_type) " " name
    QH_RECIPE_LIST(X)
#undef X
    ;

qh_status qh_recipe_find(const qh_recipe **out, const char *name, qh_err *err)
{
    *out = NULL;
    for (size_t i = 0; i < sizeof k_recipes / sizeof *k_recipes; i++)
        if (strcasecmp(k_recipes[i].name, name) == 0) *out = &k_recipes[i];
    return *out ? QH_OK : qh_fail(err, QH_EINVAL, "no type '%s'; there are%s", name, k_names);
}

static bool is_matrix(const qh_gguf_tensor *t)
{
    const size_t len = strlen(t->name);
    return t->n_dims >= 2 && len > 7 && strcmp(t->name + len - 7, ".weight") == 0;
}

static bool is_head(const qh_gguf *g, const qh_gguf_tensor *t)
{
    if (strcmp(t->name, "output.weight") == 0) return true;
    return strcmp(t->name, "token_embd.weight") == 0 && !qh_gguf_find_tensor(g, "output.weight");
}

/* The layer of "blk.7.role", and where its role begins; -1: of no layer that a model can have. Four
 * digits say them all. */
static int layer_of(const char *name, const char **role)
{
    int layer, at = 0;
    if (sscanf(name, "blk.%4d.%n", &layer, &at) != 1 || !at || layer < 0 || layer >= QH_MAX_LAYERS) return -1;
    *role = name + at;
    return layer;
}

int qh_recipe_n_layers(const qh_gguf *g)
{
    int n = 0;
    const char *role;
    for (int i = 0; i < qh_gguf_n_tensors(g); i++) {
        const int layer = layer_of(qh_gguf_tensor_at(g, i)->name, &role);
        if (layer >= n) n = layer + 1;
    }
    return n;
}

static bool has_more_bits(const qh_gguf_tensor *t, int n)
{
    const char *role;
    const int layer = layer_of(t->name, &role), eighth = n / 8;
    if (layer < 0 || (strcmp(role, "attn_v.weight") != 0 && strcmp(role, "ffn_down.weight") != 0)) return false;
    return layer < eighth || layer >= 7 * n / 8 || (layer - eighth) % 3 == 2;
}

static qh_dtype fit_rows(qh_dtype t, int64_t dim)
{
    if (dim % qh_dtype_block_len(t) == 0) return t;
    if (dim % 32) return QH_F16;
    return t == QH_Q4_K ? QH_Q5_0 : QH_Q8_0;
}

qh_dtype qh_recipe_type(const qh_recipe *r, const qh_gguf *g, int n_layers,
                        const qh_gguf_tensor *t)
{
    if (!is_matrix(t)) return t->dtype;
    const bool is_4_bit = r->dtype == QH_Q4_0 || r->dtype == QH_Q4_1 || r->dtype == QH_Q4_K;
    qh_dtype wanted = r->dtype;
    if (is_4_bit && is_head(g, t)) wanted = QH_Q6_K;
    if (r->dtype == QH_Q4_K && has_more_bits(t, n_layers)) wanted = QH_Q6_K;
    return fit_rows(wanted, t->dims[0]);
}
