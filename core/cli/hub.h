/* hub.h - what a model hub has, and which of its files stand for a model.
 *
 * Speaks the two calls of the Hugging Face hub that matter here: the listing of a repository and the
 * address of a file. Thread: one that may wait. */
#pragma once
#include "base/err.h"
#include "cli/download.h"

typedef struct {
    char *path;                         /* in the repository, "Q4_K_M/model-00001-of-00002.gguf" */
    int64_t len_bytes;
    char sha256[QH_SHA256_HEX_BYTES];   /* "" where the hub gives none */
} qh_hub_file;

typedef struct {
    qh_hub_file *files;
    int n_files;
} qh_hub_list;

/* All files of repo ("OWNER/NAME"). endpoint: "https://huggingface.co". token: NULL for none. */
qh_status qh_hub_list_read(qh_hub_list *out, const char *endpoint, const char *repo, const char *token,
                           qh_err *err);
void      qh_hub_list_deinit(qh_hub_list *l);

/* Which files to fetch: the file named (a path or its last part), or the one GGUF model of that
 * quantization ("Q4_K_M", in any case), or, with neither, the only GGUF model or the best known
 * choice of several. All shards of a split model, in order. indexes: room for l->n_files. The
 * error lists what there is. */
qh_status qh_hub_choose(const qh_hub_list *l, const char *quant, const char *file, int *indexes,
                        int *n_chosen, qh_err *err);

char *qh_hub_file_url(const char *endpoint, const char *repo, const char *path);   /* caller frees */

/* "name-00002-of-00003.gguf": number, count, and the length of "name". */
bool qh_shard_parse(const char *path, int *number, int *count, size_t *stem_bytes);
