/* logits_test: the CPU backend on the golden models, against logits of an independent implementation.
 *
 * Each model of QH_TEST_MODELS is run at each level of this machine, the whole sequence in one step, and
 * compared with NAME.ref (see make_models.py) by the mean Kullback-Leibler divergence over positions. */
#include "test.h"
#include "kernels/cpu/cpu_backend.h"
#include "model/model.h"
#include <dirent.h>
#include <math.h>

enum { MAX_IDS = 256, N_PAGES = MAX_IDS / QH_PAGE_TOKENS };

/* Nats. The ref level differs by the reference's own rounding, the others by their int8 activations
 * and 16-bit keys and values. */
static const double max_kl_ref = 1e-9, max_kl_fast = 3e-3;

typedef struct {
    int32_t n, n_vocab;
    int32_t ids[MAX_IDS];
    float *logits;                      /* [n][n_vocab] */
} reference;

static reference read_reference(const char *path)
{
    reference r = {0};
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("%s is missing", path);
    CHECK(fread(&r, 4, 2, f) == 2 && r.n > QH_PAGE_TOKENS && r.n <= MAX_IDS);
    CHECK(fread(r.ids, 4, (size_t)r.n, f) == (size_t)r.n);
    const size_t n = (size_t)r.n * (size_t)r.n_vocab;
    r.logits = calloc(n, sizeof *r.logits);
    CHECK(fread(r.logits, 4, n, f) == n);
    fclose(f);
    return r;
}

static void log_softmax(double *out, const float *row, int n)
{
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) max = fmax(max, row[i]);
    for (int i = 0; i < n; i++) sum += exp(row[i] - max);
    for (int i = 0; i < n; i++) out[i] = row[i] - max - log(sum);
}

static double mean_kl(const reference *r, const float *got)
{
    double *p = calloc((size_t)r->n_vocab * 2, sizeof *p), *q = p + r->n_vocab, kl = 0;
    for (int t = 0; t < r->n; t++) {
        log_softmax(p, r->logits + (size_t)t * (size_t)r->n_vocab, r->n_vocab);
        log_softmax(q, got + (size_t)t * (size_t)r->n_vocab, r->n_vocab);
        for (int i = 0; i < r->n_vocab; i++) kl += exp(p[i]) * (p[i] - q[i]);
    }
    free(p);
    return kl / r->n;
}

static double kl_of_level(const qh_model *m, const reference *r, qh_isa isa)
{
    const qh_backend_limits limits = {.n_pages = N_PAGES, .max_rows = MAX_IDS, .max_seqs = 1,
                                      .max_outputs = MAX_IDS, .max_context = MAX_IDS};
    const qh_cpu_options options = {.isa = isa, .n_threads = 1};
    qh_backend *b;
    qh_err err = {0};
    if (qh_cpu_backend_open(&b, qh_model_desc(m), qh_model_weights(m), &limits, &options, &err))
        fail_msg("%s", err.msg);

    qh_page pages[N_PAGES];
    int outputs[MAX_IDS];
    for (int i = 0; i < N_PAGES; i++) pages[i] = N_PAGES - 1 - i;
    for (int i = 0; i < r->n; i++) outputs[i] = i;
    const qh_step_seq seq = {.first_row = 0, .n_rows = r->n, .n_past = 0, .pages = pages};
    const qh_step step = {.n_rows = r->n, .n_seqs = 1, .n_outputs = r->n, .tokens = r->ids, .seqs = &seq,
                          .output_rows = outputs};
    const float *logits;
    CHECK_OK(b->ops->submit(b, &step, NULL));
    CHECK_OK(b->ops->wait(b, &logits, NULL));
    const double kl = mean_kl(r, logits);
    qh_backend_close(b);
    return kl;
}

static bool run_model(const char *dir, const char *name)
{
    char path[4096];
    qh_model *m;
    qh_err err = {0};
    snprintf(path, sizeof path, "%s/%s.gguf", dir, name);
    if (qh_model_open(&m, path, &err)) fail_msg("%s", err.msg);
    snprintf(path, sizeof path, "%s/%s.ref", dir, name);
    reference r = read_reference(path);
    CHECK_INT(r.n_vocab, qh_model_desc(m)->n_vocab);
    bool is_good = true;
    print_message("%-14s", name);
    for (qh_isa isa = 0; isa < QH_N_ISA; isa++) {
        if (!qh_isa_is_available(isa)) continue;
        const double kl = kl_of_level(m, &r, isa), max = isa == QH_ISA_REF ? max_kl_ref : max_kl_fast;
        print_message("  %s %.1e%s", qh_isa_name(isa), kl, kl <= max ? "" : " TOO MUCH");
        is_good &= kl <= max;
    }
    print_message("\n");
    free(r.logits);
    qh_model_close(m);
    return is_good;
}

TEST(each_architecture_and_tensor_type_gives_the_logits_of_the_reference)
{
    const char *folder = getenv("QH_TEST_MODELS");
    DIR *dir = folder ? opendir(folder) : NULL;
    int n_models = 0, n_bad = 0;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        const size_t len = strlen(e->d_name);
        if (len < 5 || strcmp(e->d_name + len - 5, ".gguf")) continue;
        char name[256];
        snprintf(name, sizeof name, "%.*s", (int)(len - 5), e->d_name);
        n_bad += !run_model(folder, name);
        n_models++;
    }
    if (dir) closedir(dir);
    if (!n_models) SKIP("no golden models; golden/make_models says why");
    CHECK_INT(n_bad, 0);
}
TEST_MAIN()
