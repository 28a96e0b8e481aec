/* cmd_test.c - qhost test: run an app's tests */
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/cmd.h"
#include "cli/opts.h"
#include "lua/host_api.h"
#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILES = 1000, DEFAULT_TIMEOUT_S = 5 };

typedef struct {
    char *paths[MAX_FILES];
    int n;
} file_list;

static bool is_test_file(const char *name)
{
    static const char ENDING[] = "_test.lua";
    size_t n = strlen(name), e = sizeof ENDING - 1;
    return n > e && *name != '.' && strcmp(name + n - e, ENDING) == 0;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Several apps may share a folder: once APP_test.lua is there, files with other names are left out. */
static void keep_own(file_list *l, const char *app_path)
{
    const char *slash = strrchr(app_path, '/'), *leaf = slash ? slash + 1 : app_path;
    size_t n = strcspn(leaf, ".");
    int n_own = 0;
    bool has_main = false;
    for (int i = 0; i < l->n; i++) {
        slash = strrchr(l->paths[i], '/');
        const char *name = slash ? slash + 1 : l->paths[i];
        has_main |= strncmp(name, leaf, n) == 0 && strcmp(name + n, "_test.lua") == 0;
    }
    for (int i = 0; has_main && i < l->n; i++) {
        slash = strrchr(l->paths[i], '/');
        const char *name = slash ? slash + 1 : l->paths[i];
        if (strncmp(name, leaf, n) == 0 && name[n] == '_') {
            l->paths[n_own++] = l->paths[i];
            continue;
        }
        qh_free(l->paths[i]);
    }
    if (has_main && n_own < l->n)
        fprintf(stderr, "qhost: %d other test files beside it are left out: their names do not begin with %.*s_\n",
                l->n - n_own, (int)n, leaf);
    if (has_main) l->n = n_own;
}

/* The test files in the folder of the app. */
static void find_files(file_list *l, const char *app_path)
{
    const char *slash = strrchr(app_path, '/');
    char *folder = slash ? qh_strndup(app_path, (size_t)(slash - app_path)) : qh_strdup(".");
    DIR *d = opendir(*folder ? folder : "/");
    for (struct dirent *e; d && (e = readdir(d)) && l->n < MAX_FILES;) {
        if (!is_test_file(e->d_name)) continue;
        qh_str path = {0};
        if (slash) qh_str_appendf(&path, "%s/", folder);
        qh_str_append_z(&path, e->d_name);
        l->paths[l->n++] = qh_str_steal(&path);
    }
    if (d) closedir(d);
    qh_free(folder);
    qsort(l->paths, (size_t)l->n, sizeof *l->paths, by_name);
    keep_own(l, app_path);
}

static int remove_entry(const char *path, const struct stat *sb, int type, struct FTW *where)
{
    (void)sb, (void)type, (void)where;
    return remove(path);
}

/* One file, with an empty data folder of its own. Counts into total; false: it failed. */
static bool run_file(const qh_lua_test_opts *opts, qh_lua_test_result *total)
{
    char folder[] = "/tmp/qhost-test-XXXXXX";
    qh_err err = {0};
    qh_lua_test_result r = {0};
    qh_lua_test_opts o = *opts;
    o.data_dir = mkdtemp(folder);
    qh_status st = o.data_dir ? qh_lua_test(&o, &r, &err)
                              : qh_fail(&err, QH_EIO, "%s: %s", folder, strerror(errno));
    if (o.data_dir) nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    printf("%s\n", o.file);
    if (st) printf("FAIL  the file does not run\n      %s\n", err.msg);
    else if (r.text[0]) printf("%s\n", r.text);
    fflush(stdout);
    total->n_passed += r.n_passed;
    total->n_failed += r.n_failed + (st ? 1 : 0);
    total->n_skipped += r.n_skipped;
    qh_free(r.text);
    return !st && !r.n_failed;
}

int qh_cmd_test(int argc, char **argv)
{
    qh_lua_test_opts o = {0};
    int timeout_s = DEFAULT_TIMEOUT_S;
    const qh_opt opts[] = {
        {"filter", 'f', QH_OPT_TEXT, &o.filter, 0, 0, "TEXT", "only tests whose name has it"},
        {"timeout", 0, QH_OPT_INT, &timeout_s, 1, 3600, "S", "seconds of a test that gives none; default 5"},
        {0}};
    const qh_opt_spec spec = {
        "qhost test APP.lua [FILE_test.lua...] [options]",
        "Run the tests of an app: the files given, else APP_test.lua and APP_*_test.lua beside it, or, when there is\n"
        "no APP_test.lua, all *_test.lua there. No model is loaded and nothing leaves the process: tests say what\n"
        "models, other servers, tools and the clock do (qh.mock).\n"
        "Exit code 0: all passed; 1: some failed; 2: there are no tests.", opts, 1, MAX_FILES};
    const char *args[argc];
    int n_args, rc = qh_opts_parse(&spec, argc, argv, args, &n_args);
    if (rc >= 0) return rc;
    file_list files = {.n = 0};
    for (int i = 1; i < n_args; i++) files.paths[files.n++] = qh_strdup(args[i]);
    if (n_args == 1) find_files(&files, args[0]);
    o.app_path = args[0];
    o.timeout_s = timeout_s;
    qh_log_set_level(QH_LOG_ERROR);
    qh_lua_test_result total = {0};
    int n_bad = 0;
    for (int i = 0; i < files.n; i++) {
        o.file = files.paths[i];
        if (!run_file(&o, &total)) n_bad++;
        qh_free(files.paths[i]);
    }
    if (!files.n) {
        fprintf(stderr, "qhost: there is no *_test.lua beside %s\n", args[0]);
        return QH_EXIT_USAGE;
    }
    printf("%d passed, %d failed, %d skipped\n", total.n_passed, total.n_failed, total.n_skipped);
    if (!n_bad && !total.n_passed && !total.n_skipped) {
        fprintf(stderr, "qhost: no test%s%s\n", o.filter ? " has this in its name: " : " was found", o.filter ? o.filter : "");
        return QH_EXIT_USAGE;
    }
    return n_bad ? QH_EXIT_FAILURE : QH_EXIT_OK;
}
