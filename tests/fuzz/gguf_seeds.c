/* gguf_seeds.c - writes well-formed model files for gguf_fuzz to change: gguf_seeds FOLDER */
#include "tiny_model.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

static void yarn(gguf_builder *b)
{
    put_spm(b);
    gb_string(b, "qwen2.rope.scaling.type", "yarn");
    gb_f32(b, "qwen2.rope.scaling.factor", 4);
}

static void factors(gguf_builder *b) { gb_tensor(b, "rope_freqs.weight", 16, 0, QH_F32); }

static void nested(gguf_builder *b)
{
    put_spm(b);
    gb_array(b, "a.nested", QH_GGUF_ARRAY, 2);
    gb_raw_u32(b, QH_GGUF_U8), gb_raw_u64(b, 2), gb_raw(b, "\1\2", 2);
    gb_raw_u32(b, QH_GGUF_STRING), gb_raw_u64(b, 1), gb_raw_str(b, "s", 1);
}

static const recipe recipes[] = {
    {.arch = "llama", .more = nested, .n_layers = 1},
    {.arch = "llama", .more = factors, .more_is_tensors = true, .n_layers = 1},
    {.arch = "qwen2", .more = yarn, .has_bias = true, .has_head = true, .n_layers = 1},
    {.arch = "qwen3", .more = put_spm, .has_qk_norm = true, .head_dim = 48, .n_layers = 1},
};

static void save(const char *dir, const char *name, int i, const gguf_builder *b)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s%d.gguf", dir, name, i);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(b->bytes.data, 1, b->bytes.len, f) != b->bytes.len || fclose(f)) {
        perror(path);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2 || (mkdir(argv[1], 0777) && errno != EEXIST)) {
        fprintf(stderr, "usage: gguf_seeds FOLDER\n");
        return 2;
    }
    for (int i = 0; i < (int)(sizeof recipes / sizeof *recipes); i++) {
        gguf_builder b = {0};
        put_model(&b, &recipes[i]);
        save(argv[1], "model", i, &b);
        qh_str_deinit(&b.bytes);
    }
    gguf_builder b = {0};
    gb_begin(&b, 2);
    put_bpe(&b);
    gb_finish(&b, 0);
    save(argv[1], "vocab", 0, &b);
    qh_str_deinit(&b.bytes);
    return 0;
}
