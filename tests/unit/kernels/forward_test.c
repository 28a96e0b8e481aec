/* The CPU backend on small random models: logits against a plain double-precision forward, equal
 * bits however a sequence is computed, and refusals with their reasons. */
#include "test.h"
#include "kernels/cpu/cpu_backend.h"
#include "tiny_model.h"

enum { MAX_TOKENS = 330, N_PAGES = 64, MAX_SEQS = 16, MAX_ROWS = 512 };

static const tiny_shape llama = {.dim = 64,
                                 .ffn_dim = 96,
                                 .n_heads = 6,
                                 .n_kv_heads = 2,
                                 .head_dim = 32,
                                 .n_layers = 3,
                                 .n_vocab = 97,
                                 .dtype = QH_Q8_0,
                                 .is_tied = true};
static const tiny_shape qwen2 = {.dim = 96,
                                 .ffn_dim = 160,
                                 .n_heads = 4,
                                 .n_kv_heads = 1,
                                 .head_dim = 20,
                                 .n_layers = 2,
                                 .n_vocab = 100,
                                 .dtype = QH_F32,
                                 .has_bias = true,
                                 .is_neox = true};
static const tiny_shape qwen3 = {.dim = 64,
                                 .ffn_dim = 64,
                                 .n_heads = 8,
                                 .n_kv_heads = 8,
                                 .head_dim = 48,
                                 .n_layers = 2,
                                 .n_vocab = 64,
                                 .dtype = QH_Q4_0,
                                 .has_qk_norm = true,
                                 .is_tied = true,
                                 .is_neox = true};
static const tiny_shape halves = {.dim = 32,
                                  .ffn_dim = 32,
                                  .n_heads = 2,
                                  .n_kv_heads = 1,
                                  .head_dim = 16,
                                  .n_layers = 2,
                                  .n_vocab = 48,
                                  .dtype = QH_F16,
                                  .has_bias = true,
                                  .has_qk_norm = true};

static const qh_backend_limits limits = {.n_pages = N_PAGES,
                                         .max_rows = MAX_ROWS,
                                         .max_seqs = MAX_SEQS,
                                         .max_outputs = MAX_ROWS,
                                         .max_context = 1024};

static qh_backend *open_backend(const tiny_model *m, qh_isa isa, int n_threads)
{
    qh_backend *b;
    qh_err err = {0};
    const qh_cpu_options o = {.isa = isa, .n_threads = n_threads};
    qh_status st = qh_cpu_backend_open(&b, &m->desc, &m->weights, &limits, &o, &err);
    if (st) print_error("%s\n", err.msg);
    CHECK_OK(st);
    return b;
}

/* A sequence on its way: its pages are scattered over the pool. */
typedef struct {
    qh_page pages[MAX_TOKENS / QH_PAGE_TOKENS + 1];
    int32_t tokens[MAX_TOKENS];
    int n_tokens, n_done;
    float *logits;                      /* [n_tokens][n_vocab] */
} sequence;

static sequence sequence_of(const tiny_model *m, int index, int n_tokens, uint64_t seed)
{
    random_source r = {seed, 0};
    sequence s = {.n_tokens = n_tokens};
    const int per_seq = N_PAGES / 4;    /* only the first four may be long */
    for (int i = 0; i < MAX_TOKENS / QH_PAGE_TOKENS + 1; i++)
        s.pages[i] = index < 3 ? (index + 3 * i) % per_seq + per_seq * (i >= per_seq)
                               : (N_PAGES / 2 + index * 2 + i) % N_PAGES;
    for (int i = 0; i < n_tokens; i++) s.tokens[i] = random_below(&r, m->desc.n_vocab);
    s.logits = qh_alloc0((size_t)n_tokens * (size_t)m->desc.n_vocab * sizeof(float));
    return s;
}

/* One step: counts[i] rows of seqs[i] each, logits of every row (or of the last row of each only).
 */
static void step_of(qh_backend *b, int n_vocab, sequence **seqs, const int *counts, int n_seqs,
                    bool all_rows)
{
    qh_step_seq ss[MAX_SEQS];
    int32_t tokens[MAX_ROWS];
    int outputs[MAX_ROWS], n_outputs = 0, n_rows = 0;
    for (int s = 0; s < n_seqs; s++) {
        ss[s] = (qh_step_seq){.first_row = n_rows,
                              .n_rows = counts[s],
                              .n_past = seqs[s]->n_done,
                              .pages = seqs[s]->pages};
        for (int i = 0; i < counts[s]; i++) {
            if (all_rows || i == counts[s] - 1) outputs[n_outputs++] = n_rows;
            tokens[n_rows++] = seqs[s]->tokens[seqs[s]->n_done + i];
        }
    }
    const qh_step step = {.n_rows = n_rows,
                          .n_seqs = n_seqs,
                          .n_outputs = n_outputs,
                          .tokens = tokens,
                          .seqs = ss,
                          .output_rows = outputs};
    const float *logits;
    CHECK_OK(b->ops->submit(b, &step, NULL));
    CHECK_OK(b->ops->wait(b, &logits, NULL));
    for (int s = 0; s < n_seqs; s++)
        for (int i = 0; i < counts[s]; i++) {
            if (!all_rows && i < counts[s] - 1) continue;
            memcpy(seqs[s]->logits + (int64_t)(seqs[s]->n_done + i) * n_vocab, logits,
                   (size_t)n_vocab * 4);
            logits += n_vocab;
        }
    for (int s = 0; s < n_seqs; s++) seqs[s]->n_done += counts[s];
}

static void run_in_chunks(qh_backend *b, const tiny_model *m, sequence *s, int chunk)
{
    while (s->n_done < s->n_tokens) {
        int n = s->n_tokens - s->n_done < chunk ? s->n_tokens - s->n_done : chunk;
        step_of(b, m->desc.n_vocab, &s, &n, 1, true);
    }
}

typedef void level_fn(qh_isa isa);
static void each_level(level_fn *fn)
{
    for (int i = 0; i < QH_N_ISA; i++)
        if (qh_isa_is_available((qh_isa)i)) fn((qh_isa)i);
}

/* ---- Right ---- */

/* Root of the mean squared difference, as a share of the logits' own spread. */
static double relative_error(const float *got, const double *want, int64_t n)
{
    double diff = 0, sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        diff += (got[i] - want[i]) * (got[i] - want[i]);
        sum += want[i];
        squares += want[i] * want[i];
    }
    return sqrt(diff / (squares - sum * sum / (double)n));
}

static void equals_plain_forward(qh_isa isa)
{
    const tiny_shape shapes[] = {llama, qwen2, qwen3, halves};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        enum { N = 80 };
        tiny_model m = tiny_make(shapes[i], 100 + i);
        sequence s = sequence_of(&m, 0, N, 5);
        double *want = qh_alloc0((size_t)N * (size_t)m.desc.n_vocab * 8);
        tiny_logits(&m, s.tokens, N, want);
        qh_backend *b = open_backend(&m, isa, 2);
        run_in_chunks(b, &m, &s, 33);
        double error = relative_error(s.logits, want, (int64_t)N * m.desc.n_vocab);
        /* Narrow models make coarse ones: int8 activations and bf16 keys err by some percent here.
         */
        double limit = isa == QH_ISA_REF ? 1e-5 : 0.04;
        if (!(error < limit)) print_error("%s, shape %zu: error %g\n", qh_isa_name(isa), i, error);
        CHECK(error < limit);
        qh_backend_close(b);
        free(want);
        free(s.logits);
        tiny_drop(&m);
    }
}
TEST(logits_equal_a_plain_forward) { each_level(equals_plain_forward); }

/* ---- Exact ---- */

static void check_same(const tiny_model *m, const sequence *a, const sequence *b, const char *what,
                       qh_isa isa)
{
    const size_t row = (size_t)m->desc.n_vocab;
    for (int t = 0; t < a->n_tokens; t++)
        if (memcmp(a->logits + (size_t)t * row, b->logits + (size_t)t * row, row * 4)) {
            print_error("%s, %s: position %d of %d differs\n", qh_isa_name(isa), what, t,
                        a->n_tokens);
            CHECK(!"equal bits");
        }
}

static void bits_depend_on_the_prefix(qh_isa isa)
{
    const tiny_shape shapes[] = {llama, qwen2, halves};
    const int n = isa == QH_ISA_REF || isa == QH_ISA_SCALAR ? 150 : MAX_TOKENS;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        tiny_model m = tiny_make(shapes[i], 7);
        qh_backend *one = open_backend(&m, isa, 1);
        sequence whole = sequence_of(&m, 0, n, 9);
        run_in_chunks(one, &m, &whole, MAX_ROWS);
        static const struct {
            int chunk, n_threads;
            const char *what;
        } ways[] = {{1, 2, "token by token, 2 threads"}, {7, 2, "by 7, 2 threads"},
                    {MAX_ROWS, 2, "whole, 2 threads"},   {1, 1, "token by token"},
                    {2, 2, "by 2, 2 threads"},           {100, 5, "by 100, 5 threads"}};
        const size_t n_ways = i == 0 ? sizeof ways / sizeof *ways : 3;
        for (size_t w = 0; w < n_ways; w++) {
            qh_backend *b = open_backend(&m, isa, ways[w].n_threads);
            sequence s = sequence_of(&m, 0, n, 9);
            run_in_chunks(b, &m, &s, ways[w].chunk);
            check_same(&m, &whole, &s, ways[w].what, isa);
            free(s.logits);
            qh_backend_close(b);
        }
        free(whole.logits);
        qh_backend_close(one);
        tiny_drop(&m);
    }
}
TEST(bits_do_not_depend_on_chunks_or_threads) { each_level(bits_depend_on_the_prefix); }

/* Sixteen sequences of different lengths, decoded and prefilled side by side in random portions. */
static void bits_survive_company(qh_isa isa)
{
    tiny_model m = tiny_make(llama, 21);
    qh_backend *alone = open_backend(&m, isa, 1), *together = open_backend(&m, isa, 2);
    sequence a[MAX_SEQS], b[MAX_SEQS];
    for (int i = 0; i < MAX_SEQS; i++) {
        int n = i < 3 ? 100 + 30 * i : 20 + 7 * i;
        a[i] = sequence_of(&m, i, n, 30 + (uint64_t)i);
        b[i] = sequence_of(&m, i, n, 30 + (uint64_t)i);
        for (int p = 0; p < 4; p++) a[i].pages[p] = b[i].pages[p] = i * 4 + p;
    }
    for (int i = 0; i < MAX_SEQS; i++) run_in_chunks(alone, &m, &a[i], 64);
    random_source r = {77, 0};
    for (;;) {
        sequence *in[MAX_SEQS];
        int counts[MAX_SEQS], n = 0;
        for (int i = 0; i < MAX_SEQS; i++) {
            int left = b[i].n_tokens - b[i].n_done,
                want = random_below(&r, 3) ? 1 : 1 + random_below(&r, 30);
            if (left == 0 || random_below(&r, 4) == 0) continue;
            in[n] = &b[i];
            counts[n++] = want < left ? want : left;
        }
        if (n) step_of(together, m.desc.n_vocab, in, counts, n, true);
        int left = 0;
        for (int i = 0; i < MAX_SEQS; i++) left += b[i].n_tokens - b[i].n_done;
        if (!left) break;
    }
    for (int i = 0; i < MAX_SEQS; i++) {
        check_same(&m, &a[i], &b[i], "in company", isa);
        free(a[i].logits);
        free(b[i].logits);
    }
    qh_backend_close(alone);
    qh_backend_close(together);
    tiny_drop(&m);
}
TEST(bits_do_not_depend_on_other_sequences) { each_level(bits_survive_company); }

static void bits_survive_fewer_outputs(qh_isa isa)
{
    tiny_model m = tiny_make(llama, 22);
    qh_backend *b = open_backend(&m, isa, 2);
    sequence all = sequence_of(&m, 0, 140, 3), last = sequence_of(&m, 0, 140, 3), *p = &last;
    run_in_chunks(b, &m, &all, 70);
    const int counts[] = {50, 60, 1, 1, 28};
    for (int i = 0; i < 5; i++) step_of(b, m.desc.n_vocab, &p, &counts[i], 1, false);
    const size_t row = (size_t)m.desc.n_vocab;
    const int ends[] = {49, 109, 110, 111, 139};
    for (int i = 0; i < 5; i++)
        CHECK(!memcmp(all.logits + (size_t)ends[i] * row, last.logits + (size_t)ends[i] * row,
                      row * 4));
    free(all.logits);
    free(last.logits);
    qh_backend_close(b);
    tiny_drop(&m);
}
TEST(bits_do_not_depend_on_which_rows_want_logits) { each_level(bits_survive_fewer_outputs); }

TEST(a_step_without_outputs_still_writes_keys)
{
    tiny_model m = tiny_make(llama, 23);
    qh_backend *b = open_backend(&m, qh_isa_best(), 2);
    sequence whole = sequence_of(&m, 0, 100, 4), s = sequence_of(&m, 0, 100, 4);
    run_in_chunks(b, &m, &whole, 100);
    const float *logits;
    for (int i = 0; i < 99; i += 33) {
        const qh_step_seq seq = {.first_row = 0, .n_rows = 33, .n_past = i, .pages = s.pages};
        const qh_step step = {.n_rows = 33, .n_seqs = 1, .tokens = s.tokens + i, .seqs = &seq};
        CHECK_OK(b->ops->submit(b, &step, NULL));
        CHECK_OK(b->ops->wait(b, &logits, NULL));
    }
    s.n_done = 99;
    run_in_chunks(b, &m, &s, 1);
    const size_t at = 99 * (size_t)m.desc.n_vocab;
    CHECK(!memcmp(whole.logits + at, s.logits + at, (size_t)m.desc.n_vocab * 4));
    free(whole.logits);
    free(s.logits);
    qh_backend_close(b);
    tiny_drop(&m);
}

/* ---- Pages ---- */

static void pages_move(qh_isa isa)
{
    tiny_model m = tiny_make(llama, 24);
    qh_backend *b = open_backend(&m, isa, 2);
    sequence a = sequence_of(&m, 0, 130, 6), fork = sequence_of(&m, 0, 130, 6);
    run_in_chunks(b, &m, &a, 50);
    /* The fork shares the full page, copies the partial one, moves it out and back elsewhere. */
    const int n_shared = 100;
    fork.pages[0] = a.pages[0];
    fork.pages[1] = 40;
    fork.pages[2] = 50;
    CHECK_OK(b->ops->copy_page(b, 41, a.pages[1], n_shared - 64, NULL));
    void *host = qh_alloc0(b->ops->plan(b)->page_bytes);
    CHECK_OK(b->ops->read_page(b, host, 41, NULL));
    CHECK_OK(b->ops->write_page(b, 40, host, NULL));
    qh_free(host);
    fork.n_done = n_shared;
    run_in_chunks(b, &m, &fork, 11);
    for (int t = n_shared; t < 130; t++) {
        const size_t at = (size_t)t * (size_t)m.desc.n_vocab;
        CHECK(!memcmp(a.logits + at, fork.logits + at, (size_t)m.desc.n_vocab * 4));
    }
    CHECK_STATUS(b->ops->copy_page(b, N_PAGES, 0, 1, NULL), QH_EINVAL);
    CHECK_STATUS(b->ops->copy_page(b, 0, -1, 1, NULL), QH_EINVAL);
    free(a.logits);
    free(fork.logits);
    qh_backend_close(b);
    tiny_drop(&m);
}
TEST(copied_pages_continue_with_equal_bits) { each_level(pages_move); }

/* ---- Refused ---- */

TEST(bad_steps_are_refused_with_their_place)
{
    tiny_model m = tiny_make(llama, 25);
    qh_backend *b = open_backend(&m, QH_ISA_SCALAR, 1);
    qh_page pages[2] = {0, 1};
    int32_t tokens[2] = {1, 2};
    int outputs[2] = {0, 1};
    const qh_step_seq good_seq = {.first_row = 0, .n_rows = 2, .n_past = 0, .pages = pages};
    const qh_step good = {.n_rows = 2,
                          .n_seqs = 1,
                          .n_outputs = 2,
                          .tokens = tokens,
                          .seqs = &good_seq,
                          .output_rows = outputs};
    CHECK_OK(b->ops->submit(b, &good, NULL));

    struct {
        qh_step_seq seq;
        qh_step step;
        int32_t token;
        qh_page page;
        int output;
        qh_status status;
        const char *says;
    } bad[] = {
        {.step.n_rows = 3, .status = QH_EINVAL, .says = "sequences have 2 rows, the step 3"},
        {.step.n_rows = MAX_ROWS + 1, .status = QH_EINVAL, .says = "limits"},
        {.seq.first_row = 1, .status = QH_EINVAL, .says = "sequence 0"},
        {.seq.n_past = 1023, .status = QH_ECONTEXT, .says = "1025 tokens"},
        {.token = 97, .status = QH_EINVAL, .says = "token 97"},
        {.token = -1, .status = QH_EINVAL, .says = "token -1"},
        {.page = N_PAGES, .status = QH_EINVAL, .says = "page 64"},
        {.page = QH_NO_PAGE, .status = QH_EINVAL, .says = "page -1"},
        {.output = 2, .status = QH_EINVAL, .says = "output 1"},
        {.output = -1, .status = QH_EINVAL, .says = "output 1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        qh_step_seq seq = good_seq;
        qh_step step = good;
        qh_err err = {0};
        if (bad[i].seq.first_row) seq.first_row = bad[i].seq.first_row;
        if (bad[i].seq.n_past) seq.n_past = bad[i].seq.n_past;
        if (bad[i].step.n_rows) step.n_rows = bad[i].step.n_rows;
        step.seqs = &seq;
        tokens[1] = bad[i].token ? bad[i].token : 2;
        pages[0] = bad[i].page ? bad[i].page : 0;
        outputs[1] = bad[i].output ? bad[i].output : 1;
        CHECK_STATUS(b->ops->submit(b, &step, &err), bad[i].status);
        if (!strstr(err.msg, bad[i].says)) print_error("'%s' lacks '%s'\n", err.msg, bad[i].says);
        CHECK(strstr(err.msg, bad[i].says));
    }
    tokens[1] = 2;
    pages[0] = 0;
    outputs[1] = 1;
    CHECK_OK(b->ops->submit(b, &good, NULL));           /* none of them did harm */
    qh_backend_close(b);
    tiny_drop(&m);
}

TEST(what_does_not_fit_is_refused_with_numbers)
{
    tiny_model m = tiny_make(llama, 26);
    qh_backend_limits huge = limits;
    huge.n_pages = 1 << 30;
    const qh_cpu_options o = {.isa = QH_ISA_SCALAR, .n_threads = 1};
    qh_memory_plan plan;
    qh_backend *b;
    qh_err err = {0};
    CHECK_OK(qh_cpu_backend_plan(&plan, &m.desc, &m.weights, &huge, &o, NULL));
    CHECK(plan.page_bytes ==
          3 * 2 * 2 * 64 * 32 * 2); /* layers, heads, k and v, tokens, dim, bf16 */
    CHECK(plan.kv_bytes == plan.page_bytes << 30);
    CHECK(plan.total_bytes == plan.weights_bytes + plan.kv_bytes + plan.scratch_bytes);
    CHECK_STATUS(qh_cpu_backend_open(&b, &m.desc, &m.weights, &huge, &o, &err), QH_ENOMEM);
    CHECK(!b);
    CHECK(strstr(err.msg, "are available"));
    tiny_drop(&m);
}

static double resident_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long n_pages = 0, n_resident = 0;
    CHECK(f && fscanf(f, "%ld %ld", &n_pages, &n_resident) == 2);
    fclose(f);
    return (double)n_resident * 4096;
}

TEST(resident_memory_is_the_plan_after_opening_and_after_use)
{
#ifdef __SANITIZE_THREAD__
    SKIP("the thread sanitizer keeps a shadow of all memory");
#endif
    tiny_shape shape = llama;
    shape.n_vocab = 4000;
    tiny_model m = tiny_make(shape, 28);
    qh_backend_limits l = limits;
    l.n_pages = 2000;
    const qh_cpu_options o = {.isa = qh_isa_best(), .n_threads = 2};
    qh_backend *b;
    double before = resident_bytes();
    CHECK_OK(qh_cpu_backend_open(&b, &m.desc, &m.weights, &l, &o, NULL));
    double opened = resident_bytes() - before, planned = (double)b->ops->plan(b)->total_bytes;
    CHECK(planned > 100e6);
    CHECK(opened > 0.95 * planned && opened < 1.05 * planned);
    sequence s = sequence_of(&m, 0, 300, 1);
    double before_use = resident_bytes();
    run_in_chunks(b, &m, &s, 300);
    CHECK(resident_bytes() - before_use <
          0.01 * planned + 300 * 4000 * 4); /* the test's own copy of logits */
    free(s.logits);
    qh_backend_close(b);
    tiny_drop(&m);
}

TEST(unsupported_models_and_limits_are_refused)
{
    tiny_model m = tiny_make(llama, 27);
    const qh_cpu_options o = {.isa = QH_ISA_SCALAR, .n_threads = 1};
    qh_backend *b;
    qh_err err = {0};
    qh_desc odd = m.desc;
    odd.head_dim = 33;
    CHECK_STATUS(qh_cpu_backend_open(&b, &odd, &m.weights, &limits, &o, &err), QH_EUNSUPPORTED);
    CHECK(strstr(err.msg, "head size 33"));
    qh_backend_limits none = limits;
    none.max_rows = 0;
    err = (qh_err){0};
    CHECK_STATUS(qh_cpu_backend_open(&b, &m.desc, &m.weights, &none, &o, &err), QH_EINVAL);
    CHECK(strstr(err.msg, "max_rows 0"));
    tiny_drop(&m);
}

TEST_MAIN()
