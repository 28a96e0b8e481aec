/* pull.c - see pull.h; and qhost pull */
#include "cli/pull.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/cmd.h"
#include "cli/download.h"
#include "cli/hub.h"
#include "cli/opts.h"
#include "host/models.h"
#include "net/http_text.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BAR_CELLS = 24, MAX_SHARDS = 1000 };

/* ---- talk ---- */

typedef struct {
    const char *name;
    bool has_bar, is_drawn;
    int64_t start_us, start_bytes;      /* of this run: what was there before says nothing about speed */
} bar;

static void draw(void *arg, int64_t n_bytes, int64_t total_bytes)
{
    bar *b = arg;
    int64_t now_us = qh_now_us();
    if (!b->has_bar) return;
    if (!b->start_us) b->start_us = now_us, b->start_bytes = n_bytes;
    double seconds = (double)(now_us - b->start_us) / 1e6;
    double rate = seconds > 0 ? (double)(n_bytes - b->start_bytes) / seconds : 0;
    b->is_drawn = true;
    if (total_bytes <= 0) {
        fprintf(stderr, "\r%-40.40s %.1f MB  %.1f MB/s \033[K", b->name, (double)n_bytes / 1e6, rate / 1e6);
        return;
    }
    char cells[BAR_CELLS + 1];
    int n_full = (int)(n_bytes * BAR_CELLS / total_bytes);
    for (int i = 0; i < BAR_CELLS; i++) cells[i] = i < n_full ? '#' : '.';
    cells[BAR_CELLS] = 0;
    int left_s = rate > 0 ? (int)((double)(total_bytes - n_bytes) / rate) : 0;
    fprintf(stderr, "\r%-40.40s %s %3d %%  %.1f/%.1f MB  %.1f MB/s  %d:%02d \033[K", b->name, cells,
            (int)(n_bytes * 100 / total_bytes), (double)n_bytes / 1e6, (double)total_bytes / 1e6, rate / 1e6,
            left_s / 60, left_s % 60);
}

static void clear_bar(bar *b)
{
    if (b->is_drawn) fprintf(stderr, "\r\033[K");
    b->is_drawn = false;
}

static void tell_retry(void *arg, const char *why, int pause_ms)
{
    bar *b = arg;
    clear_bar(b);
    fprintf(stderr, "%s; again in %.1f s\n", why, pause_ms / 1e3);
    b->start_us = 0;
}

static void tell_result(const char *name, const qh_download_result *r)
{
    fprintf(stderr, "%s: %s, %.1f MB", name, r->was_there ? "already there" : "fetched", (double)r->len_bytes / 1e6);
    if (r->is_checked) fprintf(stderr, ", SHA-256 as it should be");
    else if (r->sha256[0]) fprintf(stderr, ", SHA-256 %s (nothing to compare with)", r->sha256);
    else fprintf(stderr, ", not checked");
    fprintf(stderr, "\n");
}

/* ---- places ---- */

static qh_status make_dirs(const char *path, qh_err *err)
{
    char *p = qh_strdup(path);
    qh_status st = QH_OK;
    for (char *slash = strchr(p + 1, '/'); !st; slash = strchr(slash + 1, '/')) {
        if (slash) *slash = 0;
        if (mkdir(p, 0755) && errno != EEXIST) st = qh_fail(err, QH_EIO, "%s: %s", p, strerror(errno));
        if (!slash) break;
        *slash = '/';
    }
    qh_free(p);
    return st;
}

/* The last part of a path as a name in the model folder: a listing or URL must not lead out of it. */
static qh_status local_name(char **out, const char *path, qh_err *err)
{
    const char *slash = strrchr(path, '/');
    const char *leaf = slash ? slash + 1 : path;
    *out = NULL;
    bool is_plain = *leaf && *leaf != '.';
    for (const char *c = leaf; *c; c++) is_plain = is_plain && (unsigned char)*c >= 0x20 && *c != 0x7f;
    if (!is_plain) return qh_fail(err, QH_EINVAL, "%s: '%s' is no name for a file", path, leaf);
    *out = qh_strdup(leaf);
    return QH_OK;
}

/* ---- fetching ---- */

typedef struct {
    const qh_pull_opts *opts;
    void (*on_file)(void *arg, const char *path);
    void *arg;
    qh_err *err;
} pull;

/* One file; o names where it comes from. */
static qh_status fetch_one(pull *p, const char *name, qh_download_opts o)
{
    qh_download_result r;
    qh_str path = {0};
    bar b = {.name = name, .has_bar = p->opts->has_bar};
    qh_str_appendf(&path, "%s/%s", p->opts->dir, name);
    o.path = qh_str_z(&path);
    o.is_forced = p->opts->is_forced;
    o.progress = draw;
    o.on_retry = tell_retry;
    o.arg = &b;
    qh_status st = qh_download(&o, &r, p->err);
    clear_bar(&b);
    if (!st) {
        tell_result(name, &r);
        p->on_file(p->arg, o.path);
    }
    qh_str_deinit(&path);
    return st;
}

static qh_status fetch_chosen(pull *p, const char *repo, const qh_hub_list *l, const int *chosen, int n_chosen)
{
    qh_status st = QH_OK;
    if (p->opts->sha256 && n_chosen > 1)
        return qh_fail(p->err, QH_EINVAL, "--sha256 is for one file, this model has %d", n_chosen);
    for (int i = 0; i < n_chosen && !st; i++) {
        const qh_hub_file *f = &l->files[chosen[i]];
        char *name, *url = qh_hub_file_url(p->opts->endpoint, repo, f->path);
        st = local_name(&name, f->path, p->err);
        const char *sha256 = p->opts->sha256 ? p->opts->sha256 : f->sha256[0] ? f->sha256 : NULL;
        if (!st)
            st = fetch_one(p, name, (qh_download_opts){.url = url, .token = p->opts->token, .sha256 = sha256,
                                                       .len_bytes = f->len_bytes});
        qh_free(name);
        qh_free(url);
    }
    return st;
}

static bool is_repo_char(char c) { return isalnum((unsigned char)c) || c == '-' || c == '_' || c == '.'; }

/* OWNER/REPO[:QUANT|/FILE] into its parts; *quant and *file point into text. */
static bool split_hub(const char *text, char **repo, const char **quant, const char **file)
{
    const char *s = text;
    *quant = *file = NULL;
    while (is_repo_char(*s)) s++;
    if (s == text || *s != '/') return false;
    const char *name = ++s;
    while (is_repo_char(*s)) s++;
    if (s == name || (*s && *s != ':' && *s != '/') || (*s && !s[1])) return false;
    if (*s == ':') *quant = s + 1;
    if (*s == '/') *file = s + 1;
    *repo = qh_strndup(text, (size_t)(s - text));
    return true;
}

static qh_status pull_hub(pull *p, const char *text)
{
    char *repo;
    const char *quant, *file;
    qh_hub_list l;
    int n_chosen;
    if (!split_hub(text, &repo, &quant, &file))
        return qh_fail(p->err, QH_EINVAL, "hf:%s: wanted is hf:OWNER/REPO, hf:OWNER/REPO:QUANT or hf:OWNER/REPO/FILE",
                       text);
    qh_status st = qh_hub_list_read(&l, p->opts->endpoint, repo, p->opts->token, p->err);
    if (!st) {
        int *chosen = qh_alloc0((size_t)l.n_files * sizeof *chosen);
        st = qh_hub_choose(&l, quant, file, chosen, &n_chosen, p->err);
        if (st) qh_err_prefix(p->err, "%s", repo);
        else st = fetch_chosen(p, repo, &l, chosen, n_chosen);
        qh_free(chosen);
        qh_hub_list_deinit(&l);
    }
    qh_free(repo);
    return st;
}

/* Call fetch for the file, or for every shard of the model it belongs to. tail: what follows the
 * name (a query), or "". */
static qh_status pull_shards(pull *p, const char *whole, const char *tail,
                             qh_status (*fetch)(pull *p, const char *place, const char *name))
{
    int number, count = 1;
    size_t stem;
    qh_status st = QH_OK;
    bool is_split = qh_shard_parse(whole, &number, &count, &stem);
    if (count > MAX_SHARDS) return qh_fail(p->err, QH_ELIMIT, "%s: more than %d shards", whole, MAX_SHARDS);
    if (p->opts->sha256 && count > 1)
        return qh_fail(p->err, QH_EINVAL, "--sha256 is for one file, this model has %d", count);
    for (int k = 1; k <= count && !st; k++) {
        qh_str place = {0};
        char *name;
        if (is_split) qh_str_appendf(&place, "%.*s-%05d-of-%05d.gguf", (int)stem, whole, k, count);
        else qh_str_append_z(&place, whole);
        st = local_name(&name, qh_str_z(&place), p->err);
        qh_str_append_z(&place, tail);
        if (!st) st = fetch(p, qh_str_z(&place), name);
        qh_free(name);
        qh_str_deinit(&place);
    }
    return st;
}

static qh_status fetch_url(pull *p, const char *url, const char *name)
{
    qh_str plain = {0};
    qh_status st = qh_url_decode(&plain, name, strlen(name), false);
    char *leaf = NULL;
    if (st || plain.len != strlen(qh_str_z(&plain)) || strchr(qh_str_z(&plain), '/'))
        st = qh_fail(p->err, QH_EINVAL, "%s: '%s' is no name for a file", url, name);
    else st = local_name(&leaf, qh_str_z(&plain), p->err);
    if (!st) st = fetch_one(p, leaf, (qh_download_opts){.url = url, .sha256 = p->opts->sha256, .len_bytes = -1});
    qh_free(leaf);
    qh_str_deinit(&plain);
    return st;
}

static qh_status fetch_path(pull *p, const char *path, const char *name)
{
    return fetch_one(p, name, (qh_download_opts){.source_path = path, .sha256 = p->opts->sha256, .len_bytes = -1});
}

static bool is_loopback(const char *url)
{
    static const char *const HOSTS[] = {"http://127.0.0.1", "http://localhost", "http://[::1]"};
    for (size_t i = 0; i < sizeof HOSTS / sizeof *HOSTS; i++) {
        size_t n = strlen(HOSTS[i]);
        if (!strncasecmp(url, HOSTS[i], n) && (url[n] == ':' || url[n] == '/')) return true;
    }
    return false;
}

static qh_status pull_url(pull *p, const char *url)
{
    if (!strncasecmp(url, "http://", 7) && !is_loopback(url))
        return qh_fail(p->err, QH_EINVAL, "%s: plain http can be changed on its way; use https", url);
    size_t n = strcspn(url, "?#"), n_tail = strcspn(url + n, "#");
    char *whole = qh_strndup(url, n), *tail = qh_strndup(url + n, n_tail);
    qh_status st = pull_shards(p, whole, tail, fetch_url);
    qh_free(whole);
    qh_free(tail);
    return st;
}

qh_status qh_pull(const qh_pull_opts *opts, void (*on_file)(void *arg, const char *path), void *arg, qh_err *err)
{
    pull p = {.opts = opts, .on_file = on_file, .arg = arg, .err = err};
    const char *s = opts->source;
    qh_status st = make_dirs(opts->dir, err);
    if (st) return st;
    if (!strncmp(s, "hf:", 3)) return pull_hub(&p, s + 3);
    if (!strncmp(s, "file:", 5)) {
        const char *path = s + 5;
        if (!strncmp(path, "//", 2)) path += 2;         /* file:///path */
        return pull_shards(&p, path, "", fetch_path);
    }
    if (!strncasecmp(s, "https://", 8) || !strncasecmp(s, "http://", 7)) return pull_url(&p, s);
    return qh_fail(err, QH_EINVAL, "'%s': wanted is hf:OWNER/REPO, https://... or file:PATH", s);
}

/* ---- the command ---- */

static void print_path(void *arg, const char *path)
{
    (void)arg;
    printf("%s\n", path);
    fflush(stdout);
}

int qh_cmd_pull(int argc, char **argv)
{
    const char *sha256 = NULL, *dir = NULL;
    bool is_forced = false;
    const qh_opt OPTS[] = {
        {"sha256", 0, QH_OPT_TEXT, &sha256, 0, 0, "HEX", "what the file must hash to (hf: the hub says it by itself)"},
        {"dir", 0, QH_OPT_TEXT, &dir, 0, 0, "DIR", "another folder than the model folder"},
        {"force", 0, QH_OPT_FLAG, &is_forced, 0, 0, NULL, "replace files that are there"},
        {NULL, 0, QH_OPT_FLAG, NULL, 0, 0, NULL, NULL},
    };
    const qh_opt_spec SPEC = {
        "qhost pull SOURCE [options]",
        "Fetch a model into the model folder and print the path of each file.\n\n"
        "  hf:OWNER/REPO          the repository's GGUF model; of several the usual one (Q4_K_M ...)\n"
        "  hf:OWNER/REPO:QUANT    the one of this quantization, for example :Q8_0\n"
        "  hf:OWNER/REPO/FILE     this file\n"
        "  https://HOST/FILE      a file; with NAME-00001-of-0000N.gguf all shards\n"
        "  file:PATH              a copy of a local file, shards likewise\n\n"
        "A transfer that broke off leaves FILE.part; the same command goes on from there. Files are\n"
        "checked by SHA-256 where one is known, and appear under their name only when they are whole.\n"
        "HF_TOKEN: token for repositories that are not public. HF_ENDPOINT: another hub.\n"
        "Exit codes: 0 done, 1 failed, 2 wrong usage.",
        OPTS, 1, 1};
    const char *args[argc];
    int n_args, rc = qh_opts_parse(&SPEC, argc, argv, args, &n_args);
    if (rc >= 0) return rc;

    const char *endpoint = getenv("HF_ENDPOINT"), *token = getenv("HF_TOKEN");
    char *hub = qh_strdup(endpoint && *endpoint ? endpoint : "https://huggingface.co");
    for (size_t n = strlen(hub); n && hub[n - 1] == '/'; n--) hub[n - 1] = 0;
    char *own_dir = dir ? qh_strdup(dir) : qh_models_dir();
    qh_err err = {0};
    qh_pull_opts opts = {.source = args[0], .dir = own_dir, .endpoint = hub, .token = token && *token ? token : NULL,
                         .sha256 = sha256, .is_forced = is_forced, .has_bar = isatty(STDERR_FILENO)};
    qh_status st = qh_pull(&opts, print_path, NULL, &err);
    qh_free(hub);
    qh_free(own_dir);
    return st ? qh_cmd_fail(&err) : QH_EXIT_OK;
}
