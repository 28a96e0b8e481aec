/* hub.c - see hub.h */
#include "cli/hub.h"
#include "base/mem.h"
#include "base/str.h"
#include "net/fetch.h"
#include "net/http_text.h"
#include "net/loop.h"
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { MAX_PAGES = 100, MAX_FILES = 100000, SHARD_TAIL_BYTES = 20, MAX_SHOWN = 20 };
#define LISTING_US ((int64_t)60000000)

/* ---- the listing ---- */

typedef struct {
    qh_loop *loop;
    qh_status st;
    qh_err *err;
} waiting;

static void on_done(void *user, qh_status st, const qh_err *err)
{
    waiting *w = user;
    w->st = st;
    if (st) qh_fail(w->err, st, "%s", err->msg);
    qh_loop_stop(w->loop);
}

static qh_status add_file(qh_hub_list *l, const json_t *entry, const char *url, qh_err *err)
{
    const char *path = json_string_value(json_object_get(entry, "path"));
    const char *type = json_string_value(json_object_get(entry, "type"));
    const json_t *size = json_object_get(entry, "size"), *lfs = json_object_get(entry, "lfs");
    const char *oid = json_string_value(json_object_get(lfs, "oid"));
    if (!path || !type || (!strcmp(type, "file") && !json_is_integer(size)))
        return qh_fail(err, QH_EFORMAT, "%s: a listed file has no path, type or size", url);
    if (strcmp(type, "file")) return QH_OK;
    if (l->n_files == MAX_FILES) return qh_fail(err, QH_ELIMIT, "%s: more than %d files", url, MAX_FILES);
    l->files = qh_realloc(l->files, (size_t)(l->n_files + 1) * sizeof *l->files);
    qh_hub_file *f = &l->files[l->n_files++];
    *f = (qh_hub_file){.path = qh_strdup(path), .len_bytes = json_integer_value(size)};
    if (oid && !strncmp(oid, "sha256:", 7)) oid += 7;
    if (oid && qh_sha256_is_hex(oid)) snprintf(f->sha256, sizeof f->sha256, "%s", oid);
    return QH_OK;
}

static qh_status add_page(qh_hub_list *l, const char *text, size_t len, const char *url, qh_err *err)
{
    json_error_t je;
    json_t *page = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    qh_status st = QH_OK;
    if (!json_is_array(page)) st = qh_fail(err, QH_EFORMAT, "%s: the listing is no JSON array", url);
    for (size_t i = 0; !st && i < json_array_size(page); i++) st = add_file(l, json_array_get(page, i), url, err);
    json_decref(page);
    return st;
}

/* Link: <https://...>; rel="next" */
static char *next_page(const char *link)
{
    const char *end = link ? strstr(link, ">; rel=\"next\"") : NULL;
    if (!end) return NULL;
    const char *start = end;
    while (start > link && *start != '<') start--;
    return *start == '<' ? qh_strndup(start + 1, (size_t)(end - start - 1)) : NULL;
}

static qh_status judge_status(int status, const char *repo, const char *endpoint, const char *token, qh_err *err)
{
    if (status == 200) return QH_OK;
    if (status == 401 || status == 403)
        return qh_fail(err, QH_EACCES, "%s: %s answers %d: %s", repo, endpoint, status,
                       token ? "the token was refused, or the licence is not accepted yet"
                             : "no such repository, or not public (then set HF_TOKEN to a token that may read it)");
    if (status == 404) return qh_fail(err, QH_ENOTFOUND, "%s: no such repository at %s", repo, endpoint);
    return qh_fail(err, QH_EIO, "%s: %s answers %d to the listing", repo, endpoint, status);
}

typedef struct {
    const char *endpoint, *repo, *token;
    waiting w;
    qh_fetcher *fetcher;
} lister;

/* Read one page; *url is replaced by the next page's or NULL. */
static qh_status read_page(lister *r, qh_hub_list *out, char **url, qh_err *err)
{
    char auth[1024];
    qh_http_field f = {"Authorization", auth};
    qh_fetch *x;
    size_t len;
    snprintf(auth, sizeof auth, "Bearer %s", r->token ? r->token : "");
    qh_fetch_opts o = {.url = *url, .fields = &f, .n_fields = r->token ? 1 : 0, .timeout_us = LISTING_US,
                       .max_redirects = 5, .on_done = on_done, .user = &r->w};
    qh_status st = qh_fetch_start(&x, r->fetcher, &o, err);
    if (st) return st;
    qh_loop_run(r->w.loop);
    st = r->w.st;
    if (!st) st = judge_status(qh_fetch_status(x), r->repo, r->endpoint, r->token, err);
    if (!st) {
        const char *text = qh_fetch_body(x, &len);
        st = add_page(out, text, len, *url, err);
    }
    qh_free(*url);
    *url = st ? NULL : next_page(qh_fetch_header(x, "link"));
    qh_fetch_free(x);
    return st;
}

/* A next page elsewhere must not get the token. */
static bool is_same_place(const char *url, const char *endpoint)
{
    size_t n = strlen(endpoint);
    return !strncmp(url, endpoint, n) && url[n] == '/';
}

qh_status qh_hub_list_read(qh_hub_list *out, const char *endpoint, const char *repo, const char *token,
                           qh_err *err)
{
    *out = (qh_hub_list){0};
    qh_str first = {0};
    qh_str_appendf(&first, "%s/api/models/%s/tree/main?recursive=true", endpoint, repo);
    char *url = qh_str_steal(&first);
    lister r = {.endpoint = endpoint, .repo = repo, .token = token, .w = {.err = err}};
    qh_status st = qh_loop_new(&r.w.loop, err);
    if (!st) st = qh_fetcher_new(&r.fetcher, r.w.loop, err);
    for (int page = 0; !st && url; page++) {
        if (page == MAX_PAGES || !is_same_place(url, endpoint))
            st = qh_fail(err, QH_EFORMAT, "%s: the listing goes on at an odd place: %s", repo, url);
        else st = read_page(&r, out, &url, err);
    }
    qh_free(url);
    qh_fetcher_free(r.fetcher);
    qh_loop_free(r.w.loop);
    if (st) qh_hub_list_deinit(out);
    return st;
}

void qh_hub_list_deinit(qh_hub_list *l)
{
    for (int i = 0; i < l->n_files; i++) qh_free(l->files[i].path);
    qh_free(l->files);
    *l = (qh_hub_list){0};
}

char *qh_hub_file_url(const char *endpoint, const char *repo, const char *path)
{
    qh_str url = {0};
    qh_str_appendf(&url, "%s/%s/resolve/main", endpoint, repo);
    for (const char *part = path; part;) {
        const char *slash = strchr(part, '/');
        qh_str_append_c(&url, '/');
        qh_url_encode(&url, part, slash ? (size_t)(slash - part) : strlen(part));
        part = slash ? slash + 1 : NULL;
    }
    return qh_str_steal(&url);
}

/* ---- choosing ---- */

bool qh_shard_parse(const char *path, int *number, int *count, size_t *stem_bytes)
{
    size_t n = strlen(path);
    int used = 0;
    if (n <= SHARD_TAIL_BYTES) return false;
    if (sscanf(path + n - SHARD_TAIL_BYTES, "-%5d-of-%5d.gguf%n", number, count, &used) != 2) return false;
    *stem_bytes = n - SHARD_TAIL_BYTES;
    return used == SHARD_TAIL_BYTES && *number >= 1 && *number <= *count;
}

static const char *leaf_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* A GGUF file that stands for a model: whole, or the first of its shards. Projectors and importance
 * matrices are not models. */
static bool is_model(const char *path)
{
    int number = 1, count;
    size_t stem, n = strlen(path);
    if (n < 6 || strcasecmp(path + n - 5, ".gguf")) return false;
    if (strcasestr(leaf_of(path), "mmproj") || strcasestr(leaf_of(path), "imatrix")) return false;
    qh_shard_parse(path, &number, &count, &stem);
    return number == 1;
}

static bool is_word_char(char c) { return isalnum((unsigned char)c) || c == '_'; }

/* quant as a word of its own, so that Q4_K is not found in Q4_K_M. A '_' may stand before it. */
static bool has_quant(const char *path, const char *quant)
{
    size_t n = strlen(quant);
    for (const char *p = path; (p = strcasestr(p, quant)); p++) {
        bool is_start = p == path || !isalnum((unsigned char)p[-1]);
        if (is_start && !is_word_char(p[n])) return true;
    }
    return false;
}

static void append_names(qh_str *out, const qh_hub_list *l, bool only_models)
{
    int n = 0;
    for (int i = 0; i < l->n_files; i++) {
        if (only_models && !is_model(l->files[i].path)) continue;
        if (n++ == MAX_SHOWN) {
            qh_str_append_z(out, ", ...");
            break;
        }
        qh_str_appendf(out, "%s%s", n > 1 ? ", " : "", l->files[i].path);
    }
    if (!n) qh_str_append_z(out, "nothing");
}

static qh_status fail_with_names(const qh_hub_list *l, bool only_models, qh_status st, qh_err *err, const char *what,
                                 const char *name)
{
    qh_str names = {0};
    append_names(&names, l, only_models);
    qh_fail(err, st, "%s%s; there is: %s", what, name, qh_str_z(&names));
    qh_str_deinit(&names);
    return st;
}

/* The one model that matches; QH_AGAIN: several do. -1 in *found: none. */
static qh_status find_quant(const qh_hub_list *l, const char *quant, int *found)
{
    *found = -1;
    for (int i = 0; i < l->n_files; i++) {
        if (!is_model(l->files[i].path) || (quant && !has_quant(l->files[i].path, quant))) continue;
        if (*found >= 0) return QH_AGAIN;
        *found = i;
    }
    return QH_OK;
}

static qh_status find_model(const qh_hub_list *l, const char *quant, int *found, qh_err *err)
{
    /* What a person most likely wants: the usual compromise first, then what is nearest to it. */
    static const char *const USUAL[] = {"Q4_K_M", "Q4_0", "Q5_K_M", "Q8_0"};
    if (find_quant(l, quant, found)) {
        if (quant) return fail_with_names(l, true, QH_EINVAL, err, "several models match, name one as /FILE: ", quant);
        for (size_t k = 0; k < sizeof USUAL / sizeof *USUAL && !find_quant(l, USUAL[k], found); k++)
            if (*found >= 0) return QH_OK;
        return fail_with_names(l, true, QH_EINVAL, err, "several models, name one as :QUANT or /FILE", "");
    }
    if (*found >= 0) return QH_OK;
    if (quant) return fail_with_names(l, true, QH_ENOTFOUND, err, "no GGUF model of quantization ", quant);
    return fail_with_names(l, false, QH_ENOTFOUND, err, "no GGUF model in this repository", "");
}

static qh_status find_file(const qh_hub_list *l, const char *file, int *found, qh_err *err)
{
    int n = 0;
    for (int i = 0; i < l->n_files; i++) {
        const char *path = l->files[i].path;
        if (!strcmp(path, file)) {
            *found = i;
            return QH_OK;
        }
        if (!strcmp(leaf_of(path), file)) *found = i, n++;
    }
    if (n == 1) return QH_OK;
    if (n) return fail_with_names(l, false, QH_EINVAL, err, "several files are called ", file);
    return fail_with_names(l, false, QH_ENOTFOUND, err, "no file ", file);
}

static int find_shard(const qh_hub_list *l, const char *first, size_t stem, int number, int count)
{
    for (int i = 0; i < l->n_files; i++) {
        int no, of;
        size_t n;
        const char *path = l->files[i].path;
        if (qh_shard_parse(path, &no, &of, &n) && no == number && of == count && n == stem && !strncmp(path, first, n))
            return i;
    }
    return -1;
}

qh_status qh_hub_choose(const qh_hub_list *l, const char *quant, const char *file, int *indexes,
                        int *n_chosen, qh_err *err)
{
    int found = -1, number, count;
    size_t stem;
    *n_chosen = 0;
    qh_status st = file ? find_file(l, file, &found, err) : find_model(l, quant, &found, err);
    if (st) return st;
    const char *path = l->files[found].path;
    if (!qh_shard_parse(path, &number, &count, &stem)) {
        indexes[(*n_chosen)++] = found;
        return QH_OK;
    }
    for (int k = 1; k <= count; k++) {
        int i = find_shard(l, path, stem, k, count);
        if (i < 0) return qh_fail(err, QH_ENOTFOUND, "%s: shard %d of %d is missing", path, k, count);
        indexes[(*n_chosen)++] = i;
    }
    return QH_OK;
}
