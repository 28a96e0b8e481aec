/* A real model through the engine: a request's tokens do not depend on what runs beside it, on the chunks
 * of its prompt, the prefix cache, preemption, or the number of threads.
 * QH_EXACT_PROMPTS sets how many prompts (scripts/soak: 100), QH_TEST_MODEL the file. */
#include "test.h"
#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "kernels/cpu/cpu_backend.h"
#include "model/model.h"
#include <unistd.h>

enum { MAX_PROMPTS = 100, MAX_TOKENS = 16 };

typedef struct {
    qh_model *model;
    qh_tokens prompts[MAX_PROMPTS];
    int n_prompts;
} material;

typedef struct {
    qh_tokens tokens[MAX_PROMPTS];
    int64_t n_preemptions, n_cached;
} answers;

static const char *model_path(void)
{
    static char path[1024];
    const char *given = getenv("QH_TEST_MODEL"), *dir = getenv("QHOST_MODELS"),
               *home = getenv("HOME");
    if (given) return given;
    if (dir) snprintf(path, sizeof path, "%s/SmolLM2-135M-Instruct.Q4_1.gguf", dir);
    else
        snprintf(path, sizeof path, "%s/.cache/qhost/models/SmolLM2-135M-Instruct.Q4_1.gguf",
                 home ? home : "");
    return path;
}

static int n_wanted(void)
{
    const char *v = getenv("QH_EXACT_PROMPTS");
    int n = v ? atoi(v) : 6;
    return n < 1 ? 1 : n > MAX_PROMPTS ? MAX_PROMPTS : n;
}

/* The first turn of each question, cut to 600 bytes; the file is JSON lines with plain strings. */
static bool read_prompts(material *m)
{
    char path[1024];
    const char *data = qh_test_data();
    snprintf(path, sizeof path, "%s/prompts/spec_bench.jsonl", data ? data : "");
    FILE *f = fopen(path, "re");
    if (!f) return false;
    char *line = NULL;
    size_t cap = 0;
    while (m->n_prompts < n_wanted() && getline(&line, &cap, f) > 0) {
        char *text = strstr(line, "\"turns\": [\"");
        if (!text) continue;
        text += strlen("\"turns\": [\"");
        size_t len = strnlen(text, 600);
        CHECK_OK(qh_tokenizer_encode(qh_model_tokenizer(m->model), text, len, 0,
                                     &m->prompts[m->n_prompts++], NULL));
    }
    free(line);
    fclose(f);
    return m->n_prompts > 0;
}

static qh_gen *gen_of(const material *m, int i)
{
    qh_gen *g = qh_gen_new();
    CHECK_OK(qh_tokens_append(&g->prompt, m->prompts[i].ids, m->prompts[i].len));
    g->max_tokens = MAX_TOKENS;
    g->ignore_eos = true;
    g->sampling.temperature = i % 2 ? 0.8f : 0;
    g->sampling.seed = (uint64_t)i;
    g->sampling.has_seed = true;
    return g;
}

typedef struct {
    int n_pages, step_tokens, max_seqs, n_threads, n_rounds;
    bool no_prefix_cache, one_by_one;
} setting;

static void poll_all(qh_engine *e, const qh_job_id *ids, int n, answers *out, int *n_done)
{
    qh_event ev;
    while (qh_engine_poll(e, &ev) == QH_OK) {
        for (int i = 0; i < n; i++)
            for (int k = 0; ids[i] == ev.job && k < ev.n_tokens; k++)
                CHECK_OK(qh_tokens_append(&out->tokens[i], &ev.tokens[k].id, 1));
        if (ev.type == QH_EVENT_DONE) ++*n_done;
        qh_event_deinit(&ev);
    }
}

/* The answers of the last of n_rounds rounds on one engine. */
static void run(const material *m, const setting *s, answers *out)
{
    const qh_backend_limits lim = {s->n_pages, s->step_tokens, s->max_seqs, s->max_seqs, 2048};
    const qh_cpu_options opt = {.isa = qh_isa_best(), .n_threads = s->n_threads};
    qh_backend *be;
    qh_engine *e;
    qh_err err = {0};
    qh_engine_stats st;
    qh_status status = qh_cpu_backend_open(&be, qh_model_desc(m->model), qh_model_weights(m->model),
                                           &lim, &opt, &err);
    if (status) print_error("%s\n", err.msg);
    CHECK_OK(status);
    CHECK_OK(qh_engine_new(&e, be, qh_model_desc(m->model), qh_model_tokenizer(m->model),
                           &(qh_engine_config){.step_tokens = s->step_tokens,
                                               .max_queued = MAX_PROMPTS,
                                               .no_prefix_cache = s->no_prefix_cache},
                           &err));
    for (int round = 0; round < s->n_rounds; round++) {
        qh_job_id ids[MAX_PROMPTS] = {0};
        int n_done = 0;
        for (int i = 0; i < m->n_prompts; i++) {
            out->tokens[i].len = 0;
            CHECK_OK(qh_engine_submit(e, gen_of(m, i), &ids[i], &err));
            while (s->one_by_one && n_done <= i)
                poll_all(e, ids, m->n_prompts, out, &n_done), qh_sleep_us(500);
        }
        while (n_done < m->n_prompts)
            poll_all(e, ids, m->n_prompts, out, &n_done), qh_sleep_us(500);
    }
    qh_engine_get_stats(e, &st);
    out->n_preemptions = st.n_preemptions;
    out->n_cached = st.n_cached_tokens;
    qh_engine_free(e);
}

static void check_equal(const material *m, const answers *a, const answers *b)
{
    for (int i = 0; i < m->n_prompts; i++) {
        CHECK_INT(a->tokens[i].len, MAX_TOKENS);
        CHECK_INT(b->tokens[i].len, MAX_TOKENS);
        CHECK(!memcmp(a->tokens[i].ids, b->tokens[i].ids, sizeof(qh_token) * MAX_TOKENS));
    }
}

static void free_answers(answers *a)
{
    for (int i = 0; i < MAX_PROMPTS; i++) qh_tokens_deinit(&a->tokens[i]);
}

TEST(tokens_do_not_depend_on_batch_chunk_cache_preemption_or_threads)
{
    static material m;
    static answers alone, together;
    qh_err err = {0};
    if (access(model_path(), R_OK)) SKIP("no default model; scripts/fetch-model gets it");
    CHECK_OK(qh_model_open(&m.model, model_path(), &err));
    if (!read_prompts(&m)) SKIP("no prompts in QH_TEST_DATA");
    int n_max = 0;
    for (int i = 0; i < m.n_prompts; i++)
        n_max = m.prompts[i].len > n_max ? m.prompts[i].len : n_max;
    int one = (n_max + MAX_TOKENS + QH_PAGE_TOKENS - 1) / QH_PAGE_TOKENS + 1;

    run(&m,
        &(setting){.n_pages = one,
                   .step_tokens = 512,
                   .max_seqs = 1,
                   .n_threads = 1,
                   .n_rounds = 1,
                   .no_prefix_cache = true,
                   .one_by_one = true},
        &alone);
    run(&m,
        &(setting){.n_pages = 64, .step_tokens = 37, .max_seqs = 16, .n_threads = 2, .n_rounds = 2},
        &together);
    check_equal(&m, &alone, &together);
    CHECK(together.n_cached > 0);
    run(&m,
        &(setting){.n_pages = one + 2,
                   .step_tokens = 48,
                   .max_seqs = 8,
                   .n_threads = 2,
                   .n_rounds = 1,
                   .no_prefix_cache = true},
        &together);
    check_equal(&m, &alone, &together);
    print_message("%d prompts of up to %d tokens, %d tokens each, %lld preemptions\n", m.n_prompts,
                  n_max, MAX_TOKENS, (long long)together.n_preemptions);

    free_answers(&alone);
    free_answers(&together);
    for (int i = 0; i < m.n_prompts; i++) qh_tokens_deinit(&m.prompts[i]);
    qh_model_close(m.model);
}
TEST_MAIN()
