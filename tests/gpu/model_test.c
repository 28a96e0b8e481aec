/* model_test DIR | FILE.gguf ... - whole models on the GPU, against the ref level of the CPU and
 * against FILE.ref (see tests/golden/make_models.py), and against themselves: one pass, chunks,
 * single tokens, in a crowd and through saved pages have to give the same bits.
 *
 * Prints a line a model: mean KL in nats, rows whose best token differs although the reference's
 * best two lie more than 0.5 nat apart, and whether bits were equal. Exit 1 when something is
 * off, 77 without a GPU. */
#include "base/mem.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "model/gguf.h"
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_PAGES = 48,
    MAX_SEQS = 12,
    MAX_ROWS = 512,
    MAX_CONTEXT = 1024,
    SEQ_PAGES = 4,
    MAX_TOKENS = SEQ_PAGES * QH_PAGE_TOKENS
};

/* Mean KL against the CPU's ref level, whose activations are float: the bars for bf16 activations
 * and for 8-bit ones.
 * These random models are narrow, 256 wide and less: roundings average out less than in real
 * ones. */
static const double max_kl = 5e-4, max_kl_integers = 3e-3;

static const qh_backend_limits limits = {.n_pages = N_PAGES,
                                         .max_rows = MAX_ROWS,
                                         .max_seqs = MAX_SEQS,
                                         .max_outputs = MAX_ROWS,
                                         .max_context = MAX_CONTEXT};

typedef struct {
    int n, n_vocab;
    int32_t *ids;
    float *logits;                      /* of the reference file, or NULL */
} reference;

static reference read_reference(const char *gguf_path, int n_vocab)
{
    char path[1024];
    reference r = {.n = 150, .n_vocab = n_vocab};
    snprintf(path, sizeof path, "%.*s.ref", (int)(strlen(gguf_path) - 5), gguf_path);
    FILE *f = fopen(path, "rb");
    int32_t head[2] = {0, 0};
    if (f && fread(head, 4, 2, f) == 2 && head[0] > 0 && head[0] <= MAX_TOKENS &&
        head[1] == n_vocab)
        r.n = head[0];
    const size_t n = (size_t)r.n, n_logits = n * (size_t)n_vocab;
    r.ids = qh_alloc0(n * sizeof *r.ids);
    if (head[0] == r.n && head[1] == n_vocab) {
        r.logits = qh_alloc0(n_logits * sizeof(float));
        if (fread(r.ids, 4, n, f) != n || fread(r.logits, 4, n_logits, f) != n_logits) {
            free(r.logits);
            r.logits = NULL;
        }
    }
    if (!r.logits)
        for (int i = 0; i < r.n; i++)
            r.ids[i] = (int32_t)(((uint32_t)i * 2654435761u >> 7) % (uint32_t)n_vocab);
    if (f) fclose(f);
    return r;
}

static void die(const char *what, const qh_err *err)
{
    fprintf(stderr, "%s: %s (%s)\n", what, err->msg, qh_status_name(err->status));
    exit(1);
}

/* ---- Running ---- */

typedef struct {
    qh_page pages[SEQ_PAGES];
    const int32_t *ids;
    int n, n_done, n_vocab;
    float *logits;                      /* [n][n_vocab] */
} sequence;

static sequence sequence_of(const reference *r, const int32_t *ids, int n, int first_page)
{
    sequence s = {.ids = ids, .n = n, .n_vocab = r->n_vocab};
    for (int i = 0; i < SEQ_PAGES; i++) s.pages[i] = (first_page + 5 * i) % N_PAGES;
    s.logits = qh_alloc0((size_t)n * (size_t)r->n_vocab * sizeof(float));
    return s;
}

/* One step with counts[i] rows of each sequence, logits of every row. */
static void step_of(qh_backend *b, sequence **seqs, const int *counts, int n_seqs)
{
    qh_step_seq ss[MAX_SEQS];
    int32_t tokens[MAX_ROWS];
    int outputs[MAX_ROWS], n_rows = 0;
    for (int s = 0; s < n_seqs; s++) {
        ss[s] = (qh_step_seq){.first_row = n_rows,
                              .n_rows = counts[s],
                              .n_past = seqs[s]->n_done,
                              .pages = seqs[s]->pages};
        for (int i = 0; i < counts[s]; i++, n_rows++) {
            outputs[n_rows] = n_rows;
            tokens[n_rows] = seqs[s]->ids[seqs[s]->n_done + i];
        }
    }
    const qh_step step = {.n_rows = n_rows,
                          .n_seqs = n_seqs,
                          .n_outputs = n_rows,
                          .tokens = tokens,
                          .seqs = ss,
                          .output_rows = outputs};
    const float *logits;
    qh_err err = {0};
    if (b->ops->submit(b, &step, &err) || b->ops->wait(b, &logits, &err)) die("step", &err);
    for (int s = 0; s < n_seqs; s++) {
        const size_t n = (size_t)counts[s] * (size_t)seqs[s]->n_vocab,
                     at = (size_t)seqs[s]->n_done * (size_t)seqs[s]->n_vocab;
        memcpy(seqs[s]->logits + at, logits, n * sizeof *logits);
        logits += n;
        seqs[s]->n_done += counts[s];
    }
}

static void run_in_chunks(qh_backend *b, sequence *s, int chunk, int end)
{
    while (s->n_done < end) {
        const int n = end - s->n_done < chunk ? end - s->n_done : chunk;
        step_of(b, &s, &n, 1);
    }
}

/* ---- Comparing ---- */

typedef struct {
    double kl;                          /* mean over rows */
    int n_differ, n_near; /* rows with another best token: clearly, or at a near-tie */
} distance;

static double log_sum(const float *x, int n)
{
    double most = x[0], sum = 0;
    for (int i = 1; i < n; i++) most = fmax(most, x[i]);
    for (int i = 0; i < n; i++) sum += exp(x[i] - most);
    return most + log(sum);
}

static int best_of(const float *x, int n, double *gap)
{
    int best = 0;
    double second = -INFINITY;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    for (int i = 0; i < n; i++)
        if (i != best) second = fmax(second, x[i]);
    *gap = x[best] - second;
    return best;
}

static distance compare(const float *want, const float *got, int n_rows, int n_vocab)
{
    distance d = {0};
    for (int r = 0; r < n_rows; r++, want += n_vocab, got += n_vocab) {
        const double lw = log_sum(want, n_vocab), lg = log_sum(got, n_vocab);
        double gap, unused;
        for (int i = 0; i < n_vocab; i++)
            d.kl += exp(want[i] - lw) * (want[i] - lw - (got[i] - lg)) / n_rows;
        if (best_of(want, n_vocab, &gap) != best_of(got, n_vocab, &unused))
            gap > 0.5 ? d.n_differ++ : d.n_near++;
    }
    return d;
}

static bool same(const sequence *a, const sequence *b)
{
    return memcmp(a->logits, b->logits, (size_t)b->n * (size_t)b->n_vocab * sizeof(float)) == 0;
}

/* ---- Variants: whole is the sequence in one pass ---- */

static bool chunks_agree(qh_backend *b, const reference *r, const sequence *whole)
{
    static const int chunks[] = {1, 3, 33, 64};
    bool ok = true;
    for (int i = 0; i < 4; i++) {
        sequence s = sequence_of(r, r->ids, r->n, 1 + i);
        run_in_chunks(b, &s, chunks[i], r->n);
        ok &= same(whole, &s);
        free(s.logits);
    }
    return ok;
}

/* Five others of several lengths step along, each with rows of its own. */
static bool crowd_agrees(qh_backend *b, const reference *r, const sequence *whole)
{
    sequence seqs[MAX_SEQS], *all[MAX_SEQS];
    for (int i = 0; i < MAX_SEQS; i++) {
        seqs[i] = sequence_of(r, r->ids + (i ? 7 * i : 0), i ? 60 : r->n, 4 * i);
        for (int p = 0; p < SEQ_PAGES; p++) seqs[i].pages[p] = SEQ_PAGES * i + p;
    }
    while (seqs[0].n_done < seqs[0].n) {
        int counts[MAX_SEQS], n = 0;
        for (int i = 0; i < MAX_SEQS; i++) {
            const int left = seqs[i].n - seqs[i].n_done, want = i % 2 ? 1 : 5 + 17 * i;
            if (left == 0) continue;
            counts[n] = i == 0 ? 1 + seqs[0].n_done % 4 : want;
            if (counts[n] > left) counts[n] = left;
            all[n++] = &seqs[i];
        }
        step_of(b, all, counts, n);
    }
    const bool ok = same(whole, &seqs[0]);
    for (int i = 0; i < MAX_SEQS; i++) free(seqs[i].logits);
    return ok;
}

/* Half way the pages move: the first by copy, the others through host memory. */
static bool moved_pages_agree(qh_backend *b, const reference *r, const sequence *whole)
{
    sequence s = sequence_of(r, r->ids, r->n, 0);
    qh_err err = {0};
    void *host = qh_alloc0(b->ops->plan(b)->page_bytes);
    run_in_chunks(b, &s, 64, r->n / 2);
    for (int i = 0; i * QH_PAGE_TOKENS < s.n_done; i++) {
        const qh_page from = s.pages[i], to = (from + 1) % N_PAGES;
        const int n = s.n_done - i * QH_PAGE_TOKENS;
        if (i == 0 && b->ops->copy_page(b, to, from, n < QH_PAGE_TOKENS ? n : QH_PAGE_TOKENS, &err))
            die("copy_page", &err);
        if (i > 0 &&
            (b->ops->read_page(b, host, from, &err) || b->ops->write_page(b, to, host, &err)))
            die("move", &err);
        s.pages[i] = to;
    }
    run_in_chunks(b, &s, 1, r->n);
    const bool ok = same(whole, &s);
    free(host);
    free(s.logits);
    return ok;
}

/* ---- A model ---- */

typedef struct {
    qh_gguf *gguf;
    qh_desc desc;
    qh_weights weights;
} model;

/* The fast way: several of the same sequence, a token each a step. The first few tokens as a prompt.
 * Returns the distance of the last one's rows; all must have the same bits. */
static distance fast_distance(qh_backend *b, const reference *r, const sequence *want, int n_seqs,
                              bool *is_same)
{
    enum { PROMPT = 5 };
    sequence seqs[MAX_SEQS], *all[MAX_SEQS];
    int counts[MAX_SEQS];
    for (int i = 0; i < n_seqs; i++) {
        seqs[i] = sequence_of(r, r->ids, r->n, 0);
        for (int p = 0; p < SEQ_PAGES; p++) seqs[i].pages[p] = SEQ_PAGES * i + p;
        run_in_chunks(b, &seqs[i], PROMPT, PROMPT);
        all[i] = &seqs[i];
        counts[i] = 1;
    }
    while (seqs[0].n_done < r->n) step_of(b, all, counts, n_seqs);
    *is_same = true;
    for (int i = 1; i < n_seqs; i++) *is_same &= same(&seqs[0], &seqs[i]);
    const distance d = compare(want->logits, seqs[n_seqs - 1].logits, r->n, r->n_vocab);
    for (int i = 0; i < n_seqs; i++) free(seqs[i].logits);
    return d;
}

static bool fast_agrees(const char *name, const model *m, const reference *r, const sequence *want)
{
    qh_backend *b;
    qh_err err = {0};
    const qh_cuda_options cuda = {0};
    if (qh_cuda_backend_open(&b, &m->desc, &m->weights, &limits, &cuda, &err)) die(name, &err);
    static const int counts[] = {1, 3, 5, 12};
    bool ok = true;
    for (int i = 0; i < 4; i++) {
        bool is_same;
        const distance d = fast_distance(b, r, want, counts[i], &is_same);
        const double most = counts[i] == 1 ? max_kl_integers : max_kl;
        ok &= d.kl < most && !d.n_differ && is_same;
        printf("     fast, %d at once: KL %.2e, best differs %d (%d near-ties) of %d%s\n", counts[i],
               d.kl, d.n_differ, d.n_near, r->n, is_same ? "" : ", BITS DIFFER");
    }
    sequence s = sequence_of(r, r->ids, r->n, 0);
    run_in_chunks(b, &s, r->n, r->n);
    const distance d = compare(want->logits, s.logits, r->n, r->n_vocab);
    ok &= d.kl < max_kl && !d.n_differ;
    printf("     fast, as a prompt: KL %.2e, best differs %d (%d near-ties) of %d\n", d.kl, d.n_differ,
           d.n_near, r->n);
    free(s.logits);
    qh_backend_close(b);
    return ok;
}


static model open_model(const char *path)
{
    model m;
    qh_err err = {0};
    if (qh_gguf_open(&m.gguf, path, &err) || qh_desc_read(&m.desc, m.gguf, &err) ||
        qh_weights_bind(&m.weights, &m.desc, m.gguf, &err))
        die(path, &err);
    return m;
}

static void close_model(model *m)
{
    qh_weights_deinit(&m->weights);
    qh_gguf_close(m->gguf);
}

/* Refusals leave the backend as it was. */
static bool refuses_bad_steps(qh_backend *b)
{
    const qh_page bad_page = N_PAGES, page = 0;
    const int32_t token = 0, bad_token = -1;
    qh_step_seq seq = {.n_rows = 1, .pages = &page};
    qh_step step = {.n_rows = 1, .n_seqs = 1, .tokens = &bad_token, .seqs = &seq};
    const float *logits;
    bool ok = b->ops->submit(b, &step, NULL) == QH_EINVAL;
    step.tokens = &token;
    seq.pages = &bad_page;
    ok &= b->ops->submit(b, &step, NULL) == QH_EINVAL;
    ok &= b->ops->wait(b, &logits, NULL) == QH_EINVAL;
    ok &= b->ops->copy_page(b, N_PAGES, 0, 1, NULL) == QH_EINVAL;
    return ok;
}

static bool run_model(const char *path)
{
    model m = open_model(path);
    const reference r = read_reference(path, m.desc.n_vocab);
    qh_backend *gpu, *cpu;
    qh_err err = {0};
    const qh_cuda_options cuda = {.is_exact = true};
    const qh_cpu_options ref = {.isa = QH_ISA_REF};
    if (qh_cuda_backend_open(&gpu, &m.desc, &m.weights, &limits, &cuda, &err)) die(path, &err);
    if (qh_cpu_backend_open(&cpu, &m.desc, &m.weights, &limits, &ref, &err)) die(path, &err);
    sequence whole = sequence_of(&r, r.ids, r.n, 0), want = sequence_of(&r, r.ids, r.n, 0);
    run_in_chunks(gpu, &whole, r.n, r.n);
    run_in_chunks(cpu, &want, r.n, r.n);
    const distance d = compare(want.logits, whole.logits, r.n, r.n_vocab);
    distance file = {0};
    if (r.logits) file = compare(r.logits, whole.logits, r.n, r.n_vocab);
    const bool chunks = chunks_agree(gpu, &r, &whole), crowd = crowd_agrees(gpu, &r, &whole),
               moved = moved_pages_agree(gpu, &r, &whole), refuses = refuses_bad_steps(gpu);
    /* NaN is no small KL. */
    const bool ok = d.kl < max_kl && file.kl < max_kl && !d.n_differ && !file.n_differ && chunks &&
                    crowd && moved && refuses;
    const char *name = strrchr(path, '/');
    printf("%-4s %-22s KL cpu %.2e file %.2e  best differs %d (%d near-ties) of %d  chunks %s "
           "crowd %s moved %s refusals %s\n",
           ok ? "ok" : "FAIL", name ? name + 1 : path, d.kl, file.kl, d.n_differ, d.n_near, r.n,
           chunks ? "=" : "DIFFER", crowd ? "=" : "DIFFER", moved ? "=" : "DIFFER",
           refuses ? "ok" : "WRONG");
    qh_backend_close(gpu);
    const bool fast = fast_agrees(path, &m, &r, &want);
    fflush(stdout);
    qh_backend_close(cpu);
    free(whole.logits), free(want.logits), free(r.ids), free(r.logits);
    close_model(&m);
    return ok && fast;
}

static int is_gguf(const struct dirent *e)
{
    const size_t n = strlen(e->d_name);
    return n > 5 && strcmp(e->d_name + n - 5, ".gguf") == 0;
}

static int run_folder(const char *dir, int *n_failed)
{
    struct dirent **list;
    const int n = scandir(dir, &list, is_gguf, alphasort);
    for (int i = 0; i < n; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", dir, list[i]->d_name);
        *n_failed += !run_model(path);
        free(list[i]);
    }
    if (n >= 0) free(list);
    return n;
}

int main(int argc, char **argv)
{
    int n_gpus, n = 0, n_failed = 0;
    qh_err err = {0};
    if (!qh_cuda_is_available(&n_gpus, &err)) {
        printf("skipped: %s\n", err.msg);
        return 77;
    }
    for (int i = 1; i < argc; i++) {
        const int in_folder = run_folder(argv[i], &n_failed);
        if (in_folder < 0) n_failed += !run_model(argv[i]);
        n += in_folder < 0 ? 1 : in_folder;
    }
    if (n == 0) {
        printf("skipped: no models\n");
        return 77;
    }
    printf("%d models, %d failed\n", n, n_failed);
    return n_failed ? 1 : 0;
}
