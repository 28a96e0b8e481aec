/* cmd_list.c - qhost list */
#include "base/mem.h"
#include "cli/cmd.h"
#include "cli/opts.h"
#include "host/models.h"
#include <stdio.h>

int qh_cmd_list(int argc, char **argv)
{
    static const qh_opt_spec SPEC = {
        "qhost list", "Names and sizes of the models in the model folder: $QHOST_MODELS, else\n"
        "$XDG_CACHE_HOME/qhost/models, else ~/.cache/qhost/models.", NULL, 0, 0};
    const char *args[argc];
    int n_args, rc = qh_opts_parse(&SPEC, argc, argv, args, &n_args);
    if (rc >= 0) return rc;

    char *dir = qh_models_dir();
    qh_model_list l;
    qh_err err = {0};
    qh_status st = qh_model_list_read(&l, dir, &err);
    if (!st && !l.n_files) fprintf(stderr, "no models in %s; qhost pull fetches one\n", dir);
    for (int i = 0; !st && i < l.n_files; i++)
        printf("%-48s %8.1f MB\n", l.files[i].name, (double)l.files[i].len_bytes / 1e6);
    if (!st) qh_model_list_deinit(&l);
    qh_free(dir);
    return st ? qh_cmd_fail(&err) : QH_EXIT_OK;
}
