/* models.h - the model folder: which names stand for which files. Thread: any. */
#pragma once
#include "base/err.h"
#include "base/str.h"

/* $QHOST_MODELS, else $XDG_CACHE_HOME/qhost/models, else ~/.cache/qhost/models. Caller frees. */
char *qh_models_dir(void);

typedef struct {
    char *name;                 /* what `qhost list` shows: the path below the folder, without .gguf */
    char *path;
    uint64_t len_bytes;         /* all shards */
} qh_model_file;

typedef struct {
    qh_model_file *files;       /* sorted by name */
    int n_files;
} qh_model_list;

/* Every .gguf below the folder, three levels deep; a split model is listed once, by its first shard.
 * A folder that does not exist is an empty list. */
qh_status qh_model_list_read(qh_model_list *out, const char *dir, qh_err *err);
void qh_model_list_deinit(qh_model_list *l);

/* MODEL as users give it: a path to a file, or a name from the list; case does not matter, and a
 * beginning is enough when it ends at '-', '.' or '_' and only one model has it
 * ("smollm2-135m" for SmolLM2-135M-Instruct.Q4_1). QH_ENOTFOUND says what there is; QH_EINVAL names
 * the candidates of an ambiguous name. *out_path: caller frees. */
qh_status qh_models_find(char **out_path, const char *model, qh_err *err);
