/* models.c - see models.h */
#include "host/models.h"
#include "base/mem.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { MAX_DEPTH = 3 };

static char *join(const char *a, const char *b)
{
    qh_str s = {0};
    qh_str_appendf(&s, "%s/%s", a, b);
    return qh_str_steal(&s);
}

char *qh_models_dir(void)
{
    const char *own = getenv("QHOST_MODELS"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (own && *own) return qh_strdup(own);
    if (xdg && *xdg) return join(xdg, "qhost/models");
    return join(home && *home ? home : "/root", ".cache/qhost/models");
}

/* "name-00002-of-00003.gguf": the shard's number, 1-based; 0 when the file is no shard. */
static int shard_number(const char *file)
{
    size_t n = strlen(file);
    const char *tail = file + (n < 20 ? n : n - 20);
    int no, of, used = 0;
    if (sscanf(tail, "-%5d-of-%5d.gguf%n", &no, &of, &used) == 2 && used == 20) return no;
    return 0;
}

static bool has_gguf_suffix(const char *file)
{
    size_t n = strlen(file);
    return n > 5 && strcasecmp(file + n - 5, ".gguf") == 0;
}

static void add_file(qh_model_list *l, char *path, const char *below, uint64_t len_bytes)
{
    l->files = qh_realloc(l->files, sizeof *l->files * (size_t)(l->n_files + 1));
    l->files[l->n_files++] =
        (qh_model_file){qh_strndup(below, strlen(below) - 5), path, len_bytes};
}

static void read_dir(qh_model_list *l, const char *dir, size_t n_root, int depth)
{
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        char *path = join(dir, e->d_name);
        struct stat sb = {0};                       /* stays so for a link that leads nowhere */
        if (stat(path, &sb) == 0 && S_ISDIR(sb.st_mode) && depth < MAX_DEPTH)
            read_dir(l, path, n_root, depth + 1);
        else if (S_ISREG(sb.st_mode) && has_gguf_suffix(e->d_name) && shard_number(e->d_name) <= 1) {
            add_file(l, path, path + n_root + 1, (uint64_t)sb.st_size);
            continue;
        }
        qh_free(path);
    }
    closedir(d);
}

static int by_name(const void *a, const void *b)
{
    return strcasecmp(((const qh_model_file *)a)->name, ((const qh_model_file *)b)->name);
}

/* The other shards stand beside the first: add their sizes. */
static void add_shard_sizes(qh_model_file *f)
{
    if (shard_number(f->path) != 1) return;
    size_t n = strlen(f->path);
    int n_shards = atoi(f->path + n - 10);
    char *path = qh_strdup(f->path);
    for (int i = 2; i <= n_shards; i++) {
        struct stat sb;
        char digits[16];
        snprintf(digits, sizeof digits, "%05d", i);
        memcpy(path + n - 19, digits, 5);
        if (stat(path, &sb) == 0) f->len_bytes += (uint64_t)sb.st_size;
    }
    qh_free(path);
}

qh_status qh_model_list_read(qh_model_list *out, const char *dir, qh_err *err)
{
    *out = (qh_model_list){0};
    struct stat sb;
    if (stat(dir, &sb)) {
        if (errno == ENOENT) return QH_OK;
        return qh_fail(err, QH_EIO, "model folder %s: %s", dir, strerror(errno));
    }
    if (!S_ISDIR(sb.st_mode)) return qh_fail(err, QH_EIO, "model folder %s is not a folder", dir);
    read_dir(out, dir, strlen(dir), 1);
    if (out->n_files) qsort(out->files, (size_t)out->n_files, sizeof *out->files, by_name);
    for (int i = 0; i < out->n_files; i++) add_shard_sizes(&out->files[i]);
    return QH_OK;
}

void qh_model_list_deinit(qh_model_list *l)
{
    for (int i = 0; i < l->n_files; i++) {
        qh_free(l->files[i].name);
        qh_free(l->files[i].path);
    }
    qh_free(l->files);
    *l = (qh_model_list){0};
}

static const char *leaf(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash ? slash + 1 : name;
}

static bool is_beginning(const char *name, const char *wanted)
{
    size_t n = strlen(wanted);
    return strncasecmp(name, wanted, n) == 0 && (!name[n] || strchr("-._", name[n]));
}

static bool matches(const char *name, const char *wanted, bool whole)
{
    if (whole) return strcasecmp(name, wanted) == 0 || strcasecmp(leaf(name), wanted) == 0;
    return is_beginning(name, wanted) || is_beginning(leaf(name), wanted);
}

static int count_matches(const qh_model_list *l, const char *wanted, bool whole, int *first,
                         qh_str *names)
{
    int n = 0;
    for (int i = 0; i < l->n_files; i++) {
        if (!matches(l->files[i].name, wanted, whole)) continue;
        if (n++ == 0) *first = i;
        qh_str_appendf(names, "%s%s", names->len ? ", " : "", l->files[i].name);
    }
    return n;
}

static qh_status no_such_model(const char *model, const char *dir, const qh_model_list *l, qh_err *err)
{
    qh_str names = {0};
    for (int i = 0; i < l->n_files; i++)
        qh_str_appendf(&names, "%s%s", i ? ", " : "", l->files[i].name);
    qh_status st = qh_fail(err, QH_ENOTFOUND, "no model '%s': not a file, and %s holds %s", model, dir,
                           names.len ? qh_str_z(&names) : "no models (try qhost pull)");
    qh_str_deinit(&names);
    return st;
}

static qh_status find_in(char **out_path, const char *model, const char *dir, qh_err *err)
{
    qh_model_list l;
    qh_status st = qh_model_list_read(&l, dir, err);
    if (st) return st;
    qh_str names = {0};
    int at = 0, n = count_matches(&l, model, true, &at, &names);
    if (!n) n = count_matches(&l, model, false, &at, &names);
    if (n == 1) *out_path = qh_strdup(l.files[at].path);
    else if (n) st = qh_fail(err, QH_EINVAL, "model '%s' is one of %s: say which", model, qh_str_z(&names));
    else st = no_such_model(model, dir, &l, err);
    qh_str_deinit(&names);
    qh_model_list_deinit(&l);
    return st;
}

qh_status qh_models_find(char **out_path, const char *model, qh_err *err)
{
    *out_path = NULL;
    struct stat sb;
    if (stat(model, &sb) == 0 && S_ISREG(sb.st_mode)) {
        *out_path = qh_strdup(model);
        return QH_OK;
    }
    char *dir = qh_models_dir();
    qh_status st = find_in(out_path, model, dir, err);
    qh_free(dir);
    return st;
}
